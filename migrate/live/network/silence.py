"""Connections that are another host's now, ended here without a word to the peer.

Lives here: that. Must not live here: when (`live.departure`). `live` only.

A process that is killed has its connections closed: the kernel says so to the peer, and
goes on to say so for minutes where the link is down. Should the namespace get a link and
the address again, as when the container comes back, the peer would hear it, and the
connection could not be restored beside its own ghost. In repair mode (tcp(7), TCP_REPAIR)
a connection is closed without a word. CRIU sees to it for processes that it ends; this is
for those that are ended without it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence

from migrate import syscalls
from migrate.errors import KernelError

_TCP_REPAIR = 19


@contextlib.contextmanager
def silenced(pids: Sequence[int]) -> Iterator[None]:
    """Keep the TCP connections of processes that are ended inside the block silent.

    Args:
        pids: which stand still.
    """
    with contextlib.ExitStack() as stack:
        for pid in pids:
            for connection in _sockets(pid):
                stack.enter_context(connection)
                with contextlib.suppress(OSError):
                    if connection.type == socket.SOCK_STREAM:
                        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        yield


def _sockets(pid: int) -> Iterator[socket.socket]:
    """Yield copies of a process's sockets of the internet families."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
        pidfd = syscalls.pidfd_open(pid)
    except (OSError, KernelError):
        return  # it has ended
    try:
        for name in names:
            with contextlib.suppress(OSError, KernelError):  # closed, or it has ended
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    copy = socket.socket(fileno=syscalls.pidfd_getfd(pidfd, int(name)))
                    if copy.family in (socket.AF_INET, socket.AF_INET6):
                        yield copy
                    else:
                        copy.close()
    finally:
        os.close(pidfd)
