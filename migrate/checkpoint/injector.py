"""A process of its own that makes others open a userfaultfd.

Lives here: both ends of it. Must not live here: how it is done (`injection`). May be
imported by `checkpoint` only.

Who is killed while a thread of the container runs through a call that is not its own
leaves that thread with wrong registers, and the container dies. So it is not us who do
that: we may be killed at any time. The injector shares nothing with us but a socket, no
signal of a terminal reaches it, and what it has begun it finishes when we are gone.

    request     pid, four bytes
    answer      a zero byte with the descriptor; or why there is none
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from types import TracebackType
from typing import Self

from migrate.checkpoint import own_program
from migrate.checkpoint.injection import CannotInject, open_userfaultfd

_REQUEST = struct.Struct("<I")
_ANSWER_BYTES = 4096


class Injector:
    """Has userfaultfds opened; `close` it. Its process begins with the first one."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def open_userfaultfd(self, pid: int) -> int:
        """Return a userfaultfd for the memory of a running process, close-on-exec.

        Raises:
            CannotInject: see `injection`; or the injector was killed.
        """
        connection = self._socket or self._begin()
        try:
            connection.send(_REQUEST.pack(pid))
            answer, descriptors, _, _ = socket.recv_fds(connection, _ANSWER_BYTES, 1)
        except OSError as error:
            raise CannotInject(f"process {pid}: the injector: {error.strerror}") from error
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            return descriptors[0]
        raise CannotInject(answer.decode() or f"process {pid}: the injector was killed")

    def close(self) -> None:
        """Let it end; may be called again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        number = theirs.fileno()
        with theirs:
            self._process = own_program.start(__name__, [str(number)], pass_fds=[number])
        return ours

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def main() -> int:
    """Serve until nobody is left to ask; the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    while request := connection.recv(_REQUEST.size):
        try:
            descriptor = open_userfaultfd(*_REQUEST.unpack(request))
        except CannotInject as error:
            connection.send(str(error).encode())
            continue
        socket.send_fds(connection, [b"\0"], [descriptor])
        os.close(descriptor)
    return 0
