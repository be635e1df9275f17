"""The one way in which a link fails: once, for everybody, at once.

Lives here: the lock that all parts of a link share, its conditions, and its
error. Must not live here: any reason to fail. `migrate.transport` only.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from migrate.errors import TransportError


class Fate:
    """The lock of a link, and whether the link still stands.

    Every part waits on a condition made by `condition`, and so is woken by
    `fail`. One lock for all: the critical sections are a few lines each, and
    the threads spend their time in system calls, ciphers and zstandard.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # A stream's conditions go with the stream.
        self._conditions: weakref.WeakSet[threading.Condition] = weakref.WeakSet()
        self._error: TransportError | None = None

    @property
    def error(self) -> TransportError | None:
        """Why the link no longer stands, or None while it does."""
        return self._error

    def condition(self) -> threading.Condition:
        """Return a new condition on the shared lock, which `fail` will wake."""
        condition = threading.Condition(self.lock)
        self._conditions.add(condition)
        return condition

    def fail(self, error: TransportError) -> bool:
        """Let every waiter fail with `error`; only the first one counts.

        Returns:
            Whether this call was the first.
        """
        with self.lock:
            return self.fail_locked(error)

    def fail_locked(self, error: TransportError) -> bool:
        """Do as `fail` does; the lock is held."""
        if self._error is not None:
            return False
        self._error = error
        for condition in self._conditions:
            condition.notify_all()
        return True

    def check(self) -> None:
        """Raise the link's error, if it has one.

        Each waiter gets an exception object of its own: a traceback belongs to
        one thread.
        """
        if self._error is not None:
            raise type(self._error)(self._error.message, self._error.hint) from self._error

    def wait(
        self,
        condition: threading.Condition,
        ready: Callable[[], bool],
        timeout_seconds: float | None,
        *,
        drain: bool = False,
    ) -> bool:
        """Wait, with the lock held, until `ready()`; return False on timeout.

        Args:
            condition: one made by `condition`, whose lock the caller holds.
            ready: called with the lock held.
            timeout_seconds: None waits for ever.
            drain: take what is ready even if the link has failed since.

        Raises:
            TransportError: the link failed.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            if drain and ready():
                return True
            self.check()
            if ready():
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            condition.wait(left)
