"""Restoring one container, at once or as soon as its images are there.

Lives here: the order of a restore, gated or not, and what is left of one that failed.
Must not live here: options (`options`), where the pieces of the target come from
(`prepare`), two hosts (`live`). May be imported by `checkpoint`, `live` and `cli`.

    Restore(...)        CRIU is started where the container shall live
    start()             CRIU is asked; with a gate it waits for the inventory
    open_gate(bytes)    the images are complete and verified
    wait()              pid of the restored first process, a child of this one
      setup-namespaces  its namespaces are there, nothing runs in them yet
      network-unlock    packets may come again
      post-restore      everything is restored and nothing runs: held as long as the
                        handler takes; False kills what was restored
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from migrate.checkpoint import failure, options, scheduling, version
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.gate import Gate
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.options import Request, Target
from migrate.checkpoint.session import Handler, Notification, Place, RequestFailed, Session

LOG_NAME = "restore.log"


class Restore:
    """A restore that is prepared, run once, and closed.

    Args:
        criu: absolute path.
        place: where CRIU shall live.
        target: what takes the place of what was outside the container.
        images: complete and verified, or (gated) filled later.
        gated: make the gate; the images must have no inventory.
        on_terminal: takes over the master of the container's terminal; closes it.
        work_directory: where CRIU's log goes; the images' directory if None.
    """

    def __init__(  # noqa: PLR0913 - each is a thing of its own
        self,
        criu: str,
        facts: Facts,
        request: Request,
        *,
        place: Place,
        target: Target,
        images: ImageDirectory,
        gated: bool = False,
        on_terminal: Callable[[int], None] | None = None,
        work_directory: str | None = None,
    ) -> None:
        self._facts = facts
        self._options = options.restore_options(facts, target, request)
        self._images = images
        self._images_group = place.images_group
        self._on_terminal = on_terminal
        self._work = work_directory or images.path
        self._pid = 0
        self._was_let_go = False
        self._said_no = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._gate: Gate | None = None
        descriptors = [*target.inherited.values()]
        if target.network is not None:
            descriptors.append(target.network)
        self._work_descriptor = os.open(self._work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._session = Session(
            criu,
            pass_fds=sorted(set(descriptors)),
            place=place,
            own_group=not request.shell_job,
        )
        try:
            version.require(self._session)
            if gated:
                self._gate = Gate(images.descriptor)
        except BaseException:
            self.close()
            raise

    def run(self, handlers: Mapping[str, Handler] | None = None) -> int:
        """Restore the container and return the pid of its first process."""
        self.start(handlers)
        return self.wait()

    def start(self, handlers: Mapping[str, Handler] | None = None) -> None:
        """Ask CRIU, in a thread of this object's own, which calls the handlers."""
        if self._gate is None:
            self._let_read()
        self._thread = threading.Thread(
            target=self._request, args=(dict(handlers or {}),), name="restore", daemon=True
        )
        self._thread.start()

    def open_gate(self, inventory: bytes) -> None:
        """Let CRIU go on: everything but the inventory lies in the image directory.

        Raises:
            CriuError: it has ended already, with its cause in plain words.
        """
        if self._gate is None:
            raise AssertionError("restore has no gate")
        if self._thread is not None and not self._thread.is_alive():
            self.wait()
        self._let_read()
        self._gate.open(inventory)

    @property
    def is_alive(self) -> bool:
        """Whether CRIU has not ended yet, nor been killed, also while a handler holds it."""
        return self._session.is_alive()

    @property
    def criu_pid(self) -> int:
        """The process id of CRIU."""
        return self._session.pid

    @property
    def said_no(self) -> bool:
        """Whether CRIU has answered that it failed: then it killed what it had restored."""
        return self._said_no

    def abort(self) -> None:
        """Make a gated restore end without having restored anything; `wait` raises."""
        if self._gate is not None:
            self._gate.close()

    def wait(self) -> int:
        """Return the pid of the restored first process.

        Raises:
            CriuError: CRIU failed, in plain words; nothing of the container is left.
            Exception: what a handler raised. The same.
        """
        if self._thread is None:
            raise AssertionError("restore was not started")
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._pid

    def close(self) -> None:
        """End CRIU; a restore that is not finished is given up. May be called again."""
        if self._work_descriptor < 0:
            return
        self.abort()
        self._session.close()
        if self._thread is not None:
            self._thread.join()
        if self._images_group is not None:
            self._images.let_nobody_read()
        os.close(self._work_descriptor)
        self._work_descriptor = -1

    def _let_read(self) -> None:
        """Make the images readable for a CRIU within the container's user namespace."""
        if self._images_group is not None:
            self._images.let_read(self._images_group)

    def _request(self, handlers: dict[str, Handler]) -> None:
        """Speak with CRIU until it is done; keep what it raises for `wait`."""
        try:
            answer = self._session.request("RESTORE", self._message(), self._wrapped(handlers))
            self._pid = answer.restore.pid
        except RequestFailed as error:
            self._pid = error.pid or self._pid
            if self._runs_on():
                return
            self._said_no = error.answered
            self._reap()
            log_path = os.path.join(self._work, LOG_NAME)
            self._error = failure.explain(
                "restore", self._facts.container_id, log_path, error.message
            )
        except BaseException as error:  # noqa: BLE001 - raised by wait()
            if not self._runs_on():
                self._reap()
                self._error = error

    def _wrapped(self, handlers: dict[str, Handler]) -> dict[str, Handler]:
        """Return the handlers with what is done here anyway."""

        def noting(script: str) -> Handler:
            theirs = handlers.get(script)

            def note(notification: Notification) -> bool:
                self._pid = notification.pid or self._pid
                return theirs is None or theirs(notification)

            return note

        def letting_go(notification: Notification) -> bool:
            self._was_let_go = True
            theirs = handlers.get("pre-resume")
            return theirs is None or theirs(notification)

        def held(notification: Notification) -> bool:
            self._pid = notification.pid or self._pid
            scheduling.give_back(self._images, self._pid)
            theirs = handlers.get("post-restore")
            return theirs is None or theirs(notification)

        def terminal(notification: Notification) -> bool:
            if self._on_terminal is not None:
                self._on_terminal(notification.take())
            return True

        return {
            **handlers,
            "setup-namespaces": noting("setup-namespaces"),
            "post-restore": held,
            "pre-resume": letting_go,
            "orphan-pts-master": terminal,
        }

    def _message(self) -> Any:
        """Return the options as CRIU's message."""
        message = self._session.options()
        options.apply(self._options, message)
        # By name: a descriptor would lead into the mount namespace of this process, and
        # below that CRIU, which has one of its own, cannot mount what it wants to.
        message.images_dir_fd = -1
        message.images_dir = self._images.path
        if self._work != self._images.path:
            message.work_dir_fd = self._work_descriptor
        message.log_file = LOG_NAME
        return message

    def _runs_on(self) -> bool:
        """Whether the container runs although CRIU failed, or died, in its last steps.

        After `pre-resume` nothing that CRIU does can take it back: its tasks go on when
        CRIU lets go of them, however that comes about.
        """
        if not self._was_let_go or self._pid <= 0:
            return False
        try:
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return ended is None

    def _reap(self) -> None:
        """Bury the first process of a restore that failed; it is a child of this one.

        CRIU kills it where it can. Where CRIU itself died, nobody did.
        """
        if self._pid <= 0:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
