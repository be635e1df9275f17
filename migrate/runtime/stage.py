"""The process that becomes a container's first, from its spawning to its last word.

Lives here: the sealed interpreter, the spawning, and the parent's half of the
protocol. Must not live here: what a plan says, or where containers are remembered.
Imported by `launch` and `execute` only.
"""

from __future__ import annotations

import marshal
import os
import sys

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Answer = Callable[[bytes, list[int]], None]

PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SIGKILL = 9
_SEALS = 0x0F  # F_SEAL_SEAL, SHRINK, GROW and WRITE


def sealed_interpreter() -> tuple[int, str]:
    """A descriptor to execute the interpreter by, and the name to call it.

    Whoever opens /proc/PID/exe of a stage gets at the file it was executed from:
    through a read-only mount that nothing else refers to, it cannot be opened for
    writing (CVE-2019-5736). Where that takes privileges we lack, a sealed copy
    in memory does the same, 6 ms later. The name lets it find its library.
    """
    path = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    try:
        fd = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
        try:
            syscalls.mount_setattr(fd, attr_set=syscalls.MOUNT_ATTR_RDONLY)
        except BaseException:
            os.close(fd)
            raise
    except KernelError:
        fd = _sealed_copy(path)
    return fd, path


def _sealed_copy(path: str) -> int:
    import fcntl

    copy = os.memfd_create("migrate-init", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.sendfile(copy, source, None, 1 << 30):
            pass
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
        # A descriptor open for writing could not be executed (ETXTBSY).
        return os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(source)
        os.close(copy)


class Stage:
    """A spawned interpreter, and the child it forks.

    Attributes:
        first_pid: of stage 1; 0 once it has ended and is reaped.
        pid: of stage 2, as seen here; 0 before it is there.
        filter: the system call filter it is to load, marshalled.
    """

    def __init__(self, preserve_fds: int = 0) -> None:
        """Spawn stage 1, which starts up while the caller decides on the plan.

        Args:
            preserve_fds: how many descriptors after the standard three go along.
        """
        self.pid = 0
        self.filter = b""
        self._pidfd = -1
        _check_preserved(preserve_fds)
        # Whatever the caller left open must not reach a stage (CVE-2024-21626).
        syscalls.close_range(3 + preserve_fds, flags=syscalls.CLOSE_RANGE_CLOEXEC)
        # The forked stage becomes ours when the first ends, and our caller's when we do.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self.channel, theirs = protocol.Channel.pair()
        fd = theirs.fileno()
        code = (
            f"import sys;sys.path.append({PACKAGE_PARENT!r});"
            f"from migrate.runtime.init.main import main;main({fd})"
        )
        interpreter, name = sealed_interpreter()
        try:
            self.first_pid = os.posix_spawn(
                f"/proc/self/fd/{interpreter}",
                [name, "-I", "-S", "-X", "utf8", "-c", code],
                {},
                # Onto itself: that takes close-on-exec off in the child alone.
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, fd)],
            )
        finally:
            os.close(interpreter)
            theirs.close()

    def fork(
        self, plan: dict[str, Any], fds: tuple[int, ...], write_maps: Callable[[int], None]
    ) -> int:
        """Hand over the plan and return the pid of stage 2, which then waits.

        Args:
            plan: see `runtime.plan`.
            fds: descriptors that go along.
            write_maps: writes the id maps of the user namespace of a pid.

        Raises:
            StageError: what the stage says went wrong.
        """
        try:
            self.channel.send("PLAN", marshal.dumps(plan), fds)
            message, body, _ = self.channel.receive()
            if message == "MAPS":
                write_maps(self.first_pid)
                self.channel.send("MAPPED")
                message, body, _ = self.channel.receive()
            if message == "CHILD":
                self.pid = self.channel.sender_pid
                self._pidfd = syscalls.pidfd_open(self.pid)
        except protocol.ChannelEnded:
            raise self._died(self.first_pid) from None
        if message == "ERROR":
            self._raise(body)
        self._reap_first()
        return self.pid

    def converse(
        self, answers: dict[str, Answer], *, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Send GO, and answer what stage 2 asks until it is ready.

        Args:
            answers: by message; each may send a reply.
            meanwhile: called once stage 2 is at work.

        Raises:
            StageError: what the stage says went wrong.
        """
        try:
            self.channel.send("GO")
            if meanwhile is not None:
                meanwhile()
            while True:
                message, body, fds = self.channel.receive()
                if message == "READY":
                    return
                if message == "ERROR":
                    self._raise(body)
                answers[message](body, fds)
        except protocol.ChannelEnded:
            raise self._died(self.pid) from None

    def release(
        self,
        *,
        wait_for_exec: bool = False,
        take_listener: Callable[[int], None] | None = None,
    ) -> None:
        """Let stage 2 go on by itself.

        Args:
            wait_for_exec: wait until it has become the payload.
            take_listener: called with the listener of its system call filter.

        Raises:
            StageError: it could not.
        """
        try:
            self.channel.send("RELEASE")
            if wait_for_exec:
                message, body, fds = self.channel.receive()
                if message == "LISTENER" and take_listener is not None:
                    take_listener(fds[0])
                    _, body, _ = self.channel.receive()
                self._raise(body)
        except protocol.ChannelEnded:
            if not wait_for_exec:
                raise self._died(self.pid) from None
        self.channel.close()

    def close(self) -> None:
        """Let go of the channel; a stage that still listens to it ends."""
        self.channel.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._reap_first()

    def abort(self) -> None:
        """End what has been spawned, and wait for its end."""
        if self._pidfd >= 0:
            try:
                syscalls.pidfd_send_signal(self._pidfd, _SIGKILL)
            except KernelError:
                pass  # gone already
        elif self.first_pid:
            os.kill(self.first_pid, _SIGKILL)  # not reaped: the pid is ours
        self.close()
        if self.pid:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # reaped already
            self.pid = 0

    def _reap_first(self) -> None:
        if self.first_pid:
            os.waitpid(self.first_pid, 0)
            self.first_pid = 0

    def _raise(self, body: bytes) -> None:
        message, hint = protocol.split(body, 2)
        raise StageError(f"unable to start container process: {message}", hint)

    def _died(self, pid: int) -> StageError:
        """An error for a stage that ended without a word."""
        how = "ended"
        try:
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        except ChildProcessError:
            pass
        if pid == self.first_pid:
            self.first_pid = 0
        return StageError(
            f"unable to start container process: its first process {how} while it was set up",
            "Look at the memory limit and at the kernel's log.",
        )


def _check_preserved(count: int) -> None:
    for fd in range(3, 3 + count):
        try:
            inheritable = os.get_inheritable(fd)
        except OSError:
            inheritable = False
        if not inheritable:
            raise StageError(
                f"descriptor {fd} cannot be preserved: it is not open",
                "Open it in the caller, or lower --preserve-fds.",
            )
