"""CRIU's restore on the destination, held at the last moment before anything runs.

Lives here: the hold, and the answers to CRIU. Must not live here: who decides
(`live.destination`), how CRIU is spoken with (`migrate.checkpoint`). `live` only.

CRIU asks at four places, in a thread of its restore:

    post-restore     everything is restored, nothing has run: held here, which is
                     HELD. Yes is the commit, no makes CRIU kill what it restored.
    network-unlock   the commit is known, so the links come up
    pre-resume       a container that was paused is frozen, before its first step
    post-resume      it runs

If this process dies while CRIU is held, CRIU kills what it restored, and the source has
the container still. After `post-restore` was answered, CRIU goes on by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from migrate.checkpoint.session import Handler, Notification
from migrate.errors import CriuError, MigrateError, MigrationError


class Running(Protocol):
    """A `checkpoint.restore.Restore`, as far as it is needed here."""

    def start(self, handlers: Mapping[str, Handler]) -> None:
        """Ask CRIU, in a thread that calls the handlers."""

    @property
    def is_alive(self) -> bool:
        """Whether CRIU has not ended yet."""

    @property
    def said_no(self) -> bool:
        """Whether CRIU has answered that it failed, and killed what it had restored."""

    def wait(self) -> int:
        """Return the pid once CRIU has ended well, or raise."""

    def abort(self) -> None:
        """Make one that waits for its images end without having restored anything."""


class Restorer:
    """One restore.

    Args:
        restore: prepared, not started.
        connect: brings the links up.
        pause: freezes the container, or None where it was not paused.
        prepare: called with the first process once its namespaces are there.
    """

    def __init__(
        self,
        restore: Running,
        *,
        connect: Callable[[], None],
        pause: Callable[[], None] | None,
        prepare: Callable[[int], None] | None = None,
    ) -> None:
        self._restore = restore
        self._prepare = prepare
        self._connect = connect
        self._pause = pause
        self._change = threading.Condition()
        self._verdict: bool | None = None
        self._pid = 0
        self._held_pid = 0
        self._resumed_at = 0.0
        self._was_asked_last = False
        self._ended = False
        self._error: BaseException | None = None
        self._problem: MigrateError | None = None
        self._watcher = threading.Thread(target=self._watch, name="restore-end", daemon=True)

    @property
    def has_ended(self) -> bool:
        """Whether CRIU has ended, however."""
        return self._ended

    @property
    def has_resumed(self) -> bool:
        """Whether it runs."""
        return self._resumed_at > 0

    @property
    def may_have_run(self) -> bool:
        """Whether tasks that were let go, and are gone, may have run.

        They have not where CRIU says that it failed before its last question. Where it
        vanished, nobody knows how far it had come.
        """
        return self._was_asked_last or not self._restore.said_no

    @property
    def is_held(self) -> bool:
        """Whether it is restored and nothing of it has run; not if CRIU was killed since."""
        return bool(self._held_pid) and self._verdict is None and self._restore.is_alive

    def start(self) -> None:
        """Begin; CRIU may have to wait for its images."""
        self._restore.start(
            {
                "setup-namespaces": self._note,
                "post-restore": self._hold,
                "network-unlock": self._open_network,
                "pre-resume": self._before_resume,
                "post-resume": self._resumed,
            }
        )
        self._watcher.start()

    def wait_held(self) -> int:
        """Return the first process's pid once everything is restored and held.

        Raises:
            CriuError: the restore failed; nothing of it is left.
        """
        with self._change:
            self._change.wait_for(lambda: self._held_pid or self._ended)
            if not self._held_pid:
                self._raise()
            return self._held_pid

    def let_go(self) -> float:
        """Let them run; return when they did, on the monotonic clock.

        Raises:
            CriuError: CRIU failed in its last steps and killed what it had restored.
        """
        with self._change:
            self._verdict = True
            self._change.notify_all()
            self._change.wait_for(lambda: self._resumed_at or self._ended)
            if not self._resumed_at:
                self._raise()
            return self._resumed_at

    def refuse(self) -> None:
        """Have CRIU kill what it has restored; returns when nothing of it is left."""
        with self._change:
            self._verdict = False
            self._change.notify_all()
        self._restore.abort()
        if self._watcher.ident is not None:
            self._watcher.join()

    def finish(self) -> MigrateError | None:
        """Wait until CRIU has ended; return why a link or the pause is not as it was, if so."""
        self._watcher.join()
        return self._problem

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        raise CriuError("criu ended without holding what it restored")

    def _watch(self) -> None:
        """Tell who waits when CRIU has ended, however."""
        error: BaseException | None = None
        try:
            self._restore.wait()
        except BaseException as caught:  # noqa: BLE001 - raised by who waits
            error = caught
        with self._change:
            self._error, self._ended = error, True
            if error is None and self._verdict and not self._resumed_at:
                self._resumed_at = time.monotonic()  # CRIU died after it had let go
            self._change.notify_all()

    # CRIU's questions.

    def _note(self, notification: Notification) -> bool:
        self._pid = notification.pid
        if self._prepare is not None:
            self._prepare(self._pid)
        return True

    def _hold(self, notification: Notification) -> bool:
        with self._change:
            self._held_pid = notification.pid or self._pid
            self._change.notify_all()
            self._change.wait_for(lambda: self._verdict is not None)
            return bool(self._verdict)

    def _open_network(self, _: Notification) -> bool:
        if self._verdict:
            self._bring_up()
        return True

    def _before_resume(self, _: Notification) -> bool:
        # From here on they run whatever is answered: no error may come out of this.
        self._was_asked_last = True
        # CRIU asks `network-unlock` only where it has locked something.
        self._bring_up()
        if self._pause is not None:
            try:
                self._pause()
            except Exception as error:  # noqa: BLE001 - as said
                self._problem = MigrationError(f"it could not be paused again: {error}")
        return True

    def _bring_up(self) -> None:
        """Open the links once; a link that stays down is told, and stops nobody."""
        connect, self._connect = self._connect, _nothing
        try:
            connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, they run
            self._problem = MigrationError(f"network: {error}")

    def _resumed(self, _: Notification) -> bool:
        with self._change:
            self._resumed_at = time.monotonic()
            self._change.notify_all()
        return True


def _nothing() -> None:
    """Do what is left to do once the links are up."""
