"""A piece of work in a thread of its own, whose end is waited for where it is needed.

Lives here: that. `live` only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Work(Generic[Result]):
    """One piece of work.

    Args:
        name: of the thread.
        run: the work.
    """

    def __init__(self, name: str, run: Callable[[], Result]) -> None:
        self._run = run
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Wait until it has ended, well or not, if it was ever begun."""
        if self._thread.ident is not None:
            self._thread.join()

    def result(self) -> Result:
        """Wait for its end and return what it returned, or raise what it raised."""
        self.end()
        if self._error is not None:
            raise self._error
        if self._thread.ident is None:
            raise AssertionError(f"{self._thread.name} was never begun")
        return self._result  # type: ignore[return-value]  # set where nothing was raised

    def _main(self) -> None:
        try:
            self._result = self._run()
        except BaseException as error:  # noqa: BLE001 - raised by result
            self._error = error
