"""What passes between a command's caller, the command, and the waiting process.

Lives here: sockets of the console and of the pidfd, the pid file, and descriptors of
socket activation. Imported by `launch` and `execute`.
"""

from __future__ import annotations

import _socket
import os
import sys

from migrate import syscalls
from migrate.errors import StageError, UsageError
from migrate.runtime import door, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from migrate.runtime.launch import CreateOptions
    from migrate.runtime.spec.model import Process

    class Takers(Protocol):
        """Where a console and a pid go; part of the options of both commands."""

        console_socket: str
        take_console: Callable[[int], None] | None
        pid_file: str
        pidfd_socket: str


def console(body: bytes, fds: list[int], options: Takers) -> None:
    """Hand the master of a container's terminal to whoever was named for it."""
    name = protocol.split(body, 1)[0]
    master = fds[0]
    take = options.take_console
    if take is not None:
        take(master)
        return
    try:
        _send_fd(options.console_socket, name.encode(), master)
    finally:
        os.close(master)


def announce(pid: int, options: Takers) -> None:
    """Write the pid file and send the pidfd, where they are asked for."""
    if options.pidfd_socket:
        fd = syscalls.pidfd_open(pid)
        try:
            _send_fd(options.pidfd_socket, b"pidfd", fd)
        finally:
            os.close(fd)
    if options.pid_file:
        _write_pid_file(options.pid_file, pid)


def withdraw(options: Takers) -> None:
    """Remove the pid file again: its process never became the payload."""
    if options.pid_file:
        try:
            os.unlink(options.pid_file)
        except OSError:  # somebody has removed it; why the process failed is what counts
            return


def _write_pid_file(path: str, pid: int) -> None:
    """Whole or not at all: a monitor waits for the file and reads it at once."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}")
    try:
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
        )
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        raise UsageError(f"pid file {path}: {str(error.strerror).lower()}") from None


def _send_fd(path: str, name: bytes, fd: int) -> None:
    try:
        end = door.connect(path)
    except OSError as error:
        raise UsageError(
            f"socket {path}: {str(error.strerror).lower()}",
            "Listen on it before the container is made.",
        ) from None
    try:
        packed = fd.to_bytes(4, sys.byteorder)
        end.sendmsg([name], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    except OSError as error:
        raise StageError(f"socket {path}: {str(error.strerror).lower()}") from None
    finally:
        end.close()


def listen_fds() -> int:
    """How many descriptors socket activation passed to us, see sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdecimal() and len(count) < 6 else 0


def adopt_listen_fds(process: Process, options: CreateOptions) -> None:
    """Pass socket activation on to the payload, which is pid 1 to itself."""
    count = listen_fds()
    if count:
        options.preserve_fds += count
        env = process.setdefault("env", [])
        env += [f"LISTEN_FDS={count}", "LISTEN_PID=1"]
