"""Profiles for tests of linux.seccomp, and an agent that answers for system calls."""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
import struct
import tempfile
from types import TracebackType
from typing import Any, Self

Profile = dict[str, Any]

RECEIVE_SECONDS = 10
# linux/seccomp.h: struct seccomp_notif of 80 bytes, struct seccomp_notif_resp of 24.
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    """An entry of `syscalls`; members that are None are left out."""
    members = {key: value for key, value in more.items() if value is not None}
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **members}


def on(index: int, value: int, operator: str = "SCMP_CMP_EQ", second: int = 0) -> dict[str, Any]:
    """A condition on an argument."""
    return {"index": index, "value": value, "valueTwo": second, "op": operator}


def profile(default: str, *rules: dict[str, Any], **more: Any) -> Profile:
    """A `linux.seccomp`."""
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **more}


class Agent:
    """Listens for filters that ask, and answers one call at a time.

    Attributes:
        path: where it listens.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="oci-")
        self.path = f"{self._folder.name}/agent"
        self._listeners: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(4)
        self._socket.settimeout(RECEIVE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()
        for fd in self._listeners:
            os.close(fd)
        self._folder.cleanup()

    def receive(self) -> dict[str, Any]:
        """The container process state of the next connection; its listener is kept."""
        connection, _ = self._socket.accept()
        data = b""
        with connection:
            connection.settimeout(RECEIVE_SECONDS)
            while True:
                part, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(16))
                for _, kind, content in control:
                    assert kind == socket.SCM_RIGHTS
                    descriptors = array.array("i")
                    descriptors.frombytes(content)
                    self._listeners += descriptors
                if not part:
                    break
                data += part
        state: dict[str, Any] = json.loads(data)
        assert len(state["fds"]) == 1
        return state

    def answer(self, number: int, *, error: int) -> None:
        """Let the call that waits at the last listener fail.

        Args:
            number: the system call it has to be.
            error: its error number.
        """
        listener = self._listeners[-1]
        ready, _, _ = select.select([listener], [], [], RECEIVE_SECONDS)
        assert ready, "no call waits"
        asked = bytearray(80)
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, asked)
        identity, _, _, called = struct.unpack_from("=QIIi", asked)
        assert called == number
        reply = bytearray(struct.pack("=QqiI", identity, 0, -error, 0))
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, reply)
