"""Ctrl-C and its kin: obeyed until the commit, deferred from there on.

Lives here: the three signals of a terminal or a service manager. `live.source` only.

Before the commit a signal raises `Interrupted` in the main thread wherever it is, and
the migration rolls back. While it rolls back, and after the commit, a signal is only
noted: neither may be left half done.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from migrate.errors import MigrationError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(MigrationError):
    """The user, or the system, wants this to end."""

    code = "interrupted"


class Interruptions:
    """Takes over the three signals, as a context manager in the main thread."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._deferring = False
        self._noted: signal.Signals | None = None

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrive(self, number: int, _frame: FrameType | None) -> None:
        self._noted = signal.Signals(number)
        if not self._deferring:
            self._deferring = True
            self._raise()

    def _raise(self) -> None:
        name = self._noted.name if self._noted else "a signal"
        raise Interrupted(f"interrupted by {name}")

    def defer(self) -> None:
        """From here on only note signals.

        Raises:
            Interrupted: one has arrived that nothing has acted on.
        """
        acted_on, self._deferring = self._deferring, True
        if self._noted is not None and not acted_on:
            self._raise()
