"""Sockets that a runtime sends descriptors to: a terminal's master, a pidfd."""

from __future__ import annotations

import array
import os
import socket
import tempfile
from types import TracebackType
from typing import Self

RECEIVE_SECONDS = 10


class DescriptorSocket:
    """A listening AF_UNIX socket that takes one descriptor a connection.

    Attributes:
        path: where it listens; short, because a socket's path has to be.
        name: what came along with the last descriptor.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="oci-")
        self.path = f"{self._folder.name}/socket"
        self.name = ""
        self._received: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._listener.settimeout(RECEIVE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        for descriptor in self._received:
            os.close(descriptor)
        self._folder.cleanup()

    def receive(self) -> int:
        """The one descriptor of the next connection; closed with this object."""
        connection, _ = self._listener.accept()
        with connection:
            size = socket.CMSG_SPACE(4 * array.array("i").itemsize)
            data, control, _, _ = connection.recvmsg(4096, size)
        self.name = data.decode()
        descriptors = array.array("i")
        for _, kind, content in control:
            assert kind == socket.SCM_RIGHTS
            descriptors.frombytes(content)
        self._received += descriptors
        assert len(descriptors) == 1
        return descriptors[0]
