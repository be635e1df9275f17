"""A process in a host, seen from outside it.

Lives here: starting through the host's first process (`host_init`), waiting,
signalling by pidfd. Used by `tests.support.hosts`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self


class CommandError(Exception):
    """A command in a host ended otherwise than by 0; the message holds its output."""


class Process:
    """What `Host.popen` returns.

    Attributes:
        pid: its number here, outside the host.
        inner_pid: its number inside the host.
        pidfd: for waiting and signalling without a race.
    """

    def __init__(self, inner_pid: int, pidfd: int, status_fd: int) -> None:
        self.inner_pid = inner_pid
        self.pidfd = pidfd
        self.pid = pid_of(pidfd)
        self._status_fd = status_fd
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        try:
            return self.wait(0)
        except TimeoutError:
            return None

    def wait(self, timeout_seconds: float = 60) -> int:
        """Wait for its end and return the exit status, negative for a signal.

        Raises:
            TimeoutError: it still runs.
        """
        if self.returncode is None:
            ready, _, _ = select.select([self._status_fd], [], [], timeout_seconds)
            if not ready:
                message = f"process {self.pid} still runs after {timeout_seconds} s"
                raise TimeoutError(message)
            # Empty where the whole host ended before it could say anything.
            self.returncode = int(os.read(self._status_fd, 16) or b"-9")
            self.close()
        return self.returncode

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, if it still is there."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return

    def kill(self) -> int:
        """Kill it and wait for its end."""
        self.signal(signal.SIGKILL)
        return self.wait(10)

    def close(self) -> None:
        """Let go of it; it may run on."""
        for fd in (self.pidfd, self._status_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self._status_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None and self.pidfd >= 0:
            self.kill()
        self.close()


def pid_of(pidfd: int) -> int:
    """Return the pid a pidfd stands for, as this process numbers it."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    message = f"descriptor {pidfd} is no pidfd"
    raise ValueError(message)


class Spawner:
    """The near end of the socket to a host's first process."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self._turn = threading.Lock()

    def receive(self, timeout_seconds: float = 10) -> tuple[int, int]:
        """Return (inner pid, pidfd) of the next answer."""
        self.control.settimeout(timeout_seconds)
        message, fds, _, _ = socket.recv_fds(self.control, 4096, 1)
        if not message or not fds:
            text = "the host ended"
            raise CommandError(text)
        return json.loads(message)["pid"], fds[0]

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdio: Sequence[int]
    ) -> Process:
        """Start a process with descriptors 0, 1 and 2 from `stdio`."""
        request = json.dumps({"argv": list(argv), "env": dict(env), "cwd": cwd}).encode()
        status_read, status_write = os.pipe()
        try:
            with self._turn:
                socket.send_fds(self.control, [request], [*stdio, status_write])
                inner_pid, pidfd = self.receive()
        except BaseException:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        return Process(inner_pid, pidfd, status_read)
