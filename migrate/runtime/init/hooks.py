"""Running hooks, outside the container for `launch` and inside for the stages.

Lives here: spawning one, its standard input, its time, its output. Which hooks run
when is the callers'. Source: runtime-spec config.md "POSIX-platform Hooks".
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from migrate.errors import HookError, KernelError
from migrate.runtime.init.signals import reset_signals
from migrate.syscalls import CLOSE_RANGE_CLOEXEC, close_range, pidfd_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of what a hook says, the end is kept: the reason it failed.
KEPT_OUTPUT_BYTES = 4096
SIGKILL = 9


def run_all(kind: str, hooks: list[dict[str, Any]], state: bytes) -> None:
    """Run hooks in their order, and stop at the first that fails.

    Args:
        kind: such as `createRuntime`, for the error.
        hooks: decoded hooks.
        state: JSON of the container's state, their standard input.

    Raises:
        HookError: names the hook, how it ended, and the end of its output.
    """
    for at, hook in enumerate(hooks):
        _run(f"hook {kind}[{at}] {hook['path']}", hook, state)


def _run(name: str, hook: dict[str, Any], state: bytes) -> None:
    """Run one hook in a session of its own, so that it can be ended as a whole.

    Its end of the input stays open here as well until it has ended: a write after that
    would be answered by SIGPIPE, which kills a stage.
    """
    input_read, input_write = os.pipe()
    try:
        _run_fed(name, hook, state, (input_read, input_write))
    finally:
        os.close(input_read)


def _run_fed(name: str, hook: dict[str, Any], state: bytes, feed: tuple[int, int]) -> None:
    """Run it, with both ends of its input open."""
    input_read, input_write = feed
    output_read, output_write = os.pipe()
    try:
        pid = _spawn(name, hook, input_read, output_write)
    except BaseException:
        os.close(input_write)
        os.close(output_read)
        raise
    finally:
        os.close(output_write)
    try:
        output, in_time = _attend(pid, hook.get("timeout"), state, (input_write, output_read))
    except BaseException:
        os.killpg(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise
    if not in_time:
        os.killpg(pid, SIGKILL)
    _, status = os.waitpid(pid, 0)
    _judge(name, hook, status, output, in_time=in_time)


def _spawn(name: str, hook: dict[str, Any], feed: int, hear: int) -> int:
    """Start the program, or say why it cannot be.

    Not posix_spawn: glibc's leaves signals 32 and 33 ignored in what it starts.
    """
    report_read, report_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(hook, feed, hear)
        except OSError as error:
            os.write(report_write, str(error.strerror).lower().encode())
        finally:
            os._exit(127)
    os.close(report_write)
    try:
        problem = os.read(report_read, 4096).decode()
    except BaseException:  # we are told to end: so is the hook
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(report_read)
    if problem:
        os.waitpid(pid, 0)
        raise HookError(f"{name}: {problem}")
    return pid


def _become(hook: dict[str, Any], feed: int, hear: int) -> None:
    """Be the hook, in the child."""
    os.setsid()
    os.umask(0o022)  # init's own is 0 while it makes nodes
    # Above the three first, should one of them have been closed in the caller.
    feed, hear = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (feed, hear))
    for target, fd in enumerate((feed, hear, hear)):
        os.dup2(fd, target)
    close_range(3, flags=CLOSE_RANGE_CLOEXEC)
    reset_signals()
    environment = dict(entry.split("=", 1) for entry in hook.get("env", ()))
    os.execve(hook["path"], hook.get("args") or [hook["path"]], environment)  # noqa: S606 - no shell is wanted


def _judge(name: str, hook: dict[str, Any], status: int, output: bytes, *, in_time: bool) -> None:
    code = os.waitstatus_to_exitcode(status)
    if in_time and code == 0:
        return
    if not in_time:
        how = f"did not end within {hook['timeout']} s and was killed"
    else:
        how = f"failed with exit status {code}" if code > 0 else f"was killed by signal {-code}"
    said = output.decode("utf-8", "replace").strip().replace("\n", " | ")
    raise HookError(f"{name} {how}" + (f": {said}" if said else ""))


def _attend(
    pid: int, timeout_seconds: int | None, state: bytes, pipes: tuple[int, int]
) -> tuple[bytes, bool]:
    """Feed a hook and hear it until it has ended, or its time has.

    The end of the process counts, not that of its output: what it leaves behind
    may hold the pipe for ever.
    """
    feed, hear = pipes
    deadline = time.monotonic() + timeout_seconds if timeout_seconds else None
    output = b""
    try:
        pidfd = pidfd_open(pid)
    except KernelError:
        os.close(feed)
        os.close(hear)
        raise
    os.set_blocking(feed, False)
    os.set_blocking(hear, False)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(hear, select.POLLIN)
    poll.register(feed, select.POLLOUT)
    is_feeding = True
    try:
        while True:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            events = dict(poll.poll(wait))
            if feed in events:
                state = state[_write(feed, state) :]
                if not state:
                    poll.unregister(feed)
                    os.close(feed)
                    is_feeding = False
            if hear in events:
                part = _read(hear)
                output = (output + part)[-KEPT_OUTPUT_BYTES:]
                if not part:
                    poll.unregister(hear)
            if pidfd in events:
                return (output + _read(hear))[-KEPT_OUTPUT_BYTES:], True
            if deadline is not None and time.monotonic() >= deadline:
                return output, False
    finally:
        os.close(pidfd)
        os.close(hear)
        if is_feeding:
            os.close(feed)


def _write(fd: int, data: bytes) -> int:
    """How much was taken."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""
