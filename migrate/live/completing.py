"""A container that runs here already, while its memory is still filled in.

Lives here: the waiting for that, in a thread of its own, and what is let go of then.
Must not live here: the filling (`checkpoint.keeping`). `live` only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from migrate.checkpoint import wholeness
from migrate.errors import MigrateError, MigrationError
from migrate.events import Log, emit
from migrate.live.incoming import Incoming

_LOOK_SECONDS = 1.0


class Completing:
    """One container on its way to being whole.

    Args:
        incoming: it runs; let go of at the end.
        folder: its state folder, which has the note that it is not whole.
        at_end: called, in another thread, when nothing is left to be waited for.
    """

    def __init__(self, incoming: Incoming, folder: str, at_end: Callable[[], None]) -> None:
        self._incoming = incoming
        self._folder = folder
        self._at_end = at_end
        self._is_over = threading.Event()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="completing", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it is whole; never, where nobody can fill in what is missing."""
        return self._is_over.is_set()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until it is whole; return whether it is.

        Raises:
            MigrationError: nobody can fill in what is missing.
        """
        is_over = self._is_over.wait(timeout_seconds)
        if self._problem:
            raise MigrationError(
                f"it runs, and stands still where it needs memory that is missing: {self._problem}",
                "Kill it: its memory cannot be had any more.",
            )
        return is_over

    def _run(self) -> None:
        noted = self._incoming.fillers
        try:
            while not self._incoming.is_whole(_LOOK_SECONDS):
                if noted != self._incoming.fillers:  # a keeper was replaced
                    noted = self._incoming.fillers
                    self._incoming.note_missing(self._folder)
        except MigrateError as error:
            # What is held of it stays held: let go, it would get zeros for what is missing.
            self._problem = error.message
            emit(Log(level="error", message=error.message))
            return
        wholeness.forget(self._folder)
        self._incoming.close()
        self._is_over.set()
        self._at_end()
