"""What `launch` and the stages of a container's first process say to each other.

Lives here: the messages with their senders and legal successors, and the channel
that carries them. Must not live here: what a message makes anybody do. Imported by
`launch` and by `init`; so it imports nothing that init may not.

    parent (launch)             stage 1                     stage 2
    PLAN, descriptors ────────▶ reads the plan
                                joins and makes namespaces
              ◀──────── MAPS    in a new user namespace
    MAPPED ───────────────────▶ becomes its root
                                forks, and ends
              ◀──────────────────────────────────── CHILD   is there
    GO ──────────────────────────────────────────────────▶ is in the cgroup now
              ◀──────────────────────────────────── SOURCE  may not open it, or map its ids
    TREE, descriptor ────────────────────────────────────▶
              ◀──────────────────────────────────── HOOKS   mounts are made
    HOOKED ──────────────────────────────────────────────▶ pivots
              ◀──────────────────────────────────── CONSOLE, descriptor
              ◀──────────────────────────────────── LIMITS  is about to change its user
    LIMITED, the filter ─────────────────────────────────▶
              ◀──────────────────────────────────── READY   nothing left that can fail
    RELEASE ─────────────────────────────────────────────▶ waits for `start`; exec: runs
              ◀──────────────────── LISTENER, descriptor    exec: of its system call filter
              ◀──────────────────────────────────── ERROR   at any time, and ends

`create` and `exec` are the same but for their last step. When the parent dies the
channel ends, and so does the stage: nothing half-made waits for ever.

What the parent says is marshalled. What a stage says is plain text, since a stage
may share a pid namespace with what it must not trust; and whose pid a message came
from, the kernel says (SO_PASSCRED, unix(7)), in the parent's own pid namespace.
"""

from __future__ import annotations

import _socket
import os
import sys

from migrate.errors import KernelError, MigrateError, StageError

# message -> what may come next, from either side
NEXT: dict[str, frozenset[str]] = {
    "": frozenset({"PLAN"}),
    "PLAN": frozenset({"MAPS", "CHILD", "ERROR"}),
    "MAPS": frozenset({"MAPPED"}),
    "MAPPED": frozenset({"CHILD", "ERROR"}),
    "CHILD": frozenset({"GO"}),
    "GO": frozenset({"SOURCE", "HOOKS", "CONSOLE", "LIMITS", "ERROR"}),
    "SOURCE": frozenset({"TREE"}),
    "TREE": frozenset({"SOURCE", "HOOKS", "CONSOLE", "LIMITS", "ERROR"}),
    "HOOKS": frozenset({"HOOKED"}),
    "HOOKED": frozenset({"CONSOLE", "LIMITS", "ERROR"}),
    "CONSOLE": frozenset({"LIMITS", "ERROR"}),
    "LIMITS": frozenset({"LIMITED"}),
    "LIMITED": frozenset({"READY", "ERROR"}),
    "READY": frozenset({"RELEASE"}),
    "RELEASE": frozenset({"LISTENER", "ERROR"}),
    "LISTENER": frozenset({"ERROR"}),
    "ERROR": frozenset(),
}

FROM_PARENT = frozenset({"PLAN", "MAPPED", "GO", "TREE", "HOOKED", "LIMITED", "RELEASE"})

# A plan holds arguments and environment, which the kernel limits to 2 MiB or so.
LARGEST_MESSAGE_BYTES = 32 << 20
MOST_DESCRIPTORS = 16
_ORDER = sys.byteorder
# Descriptors, and a struct ucred of three integers.
_CONTROL_BYTES = _socket.CMSG_SPACE(4 * MOST_DESCRIPTORS) + _socket.CMSG_SPACE(12)


class ChannelEnded(StageError):
    """The other side closed the channel: it has ended."""


class Channel:
    """One end of the socket pair.

    Attributes:
        sender_pid: whose the last message was, as the kernel says; the parent's end only.
    """

    def __init__(self, end: _socket.socket, *, is_parent: bool) -> None:
        self._socket = end
        self._is_parent = is_parent
        self._last = ""
        self.sender_pid = 0

    @classmethod
    def pair(cls) -> tuple[Channel, _socket.socket]:
        """Return the parent's end, and the bare other end to hand to a stage."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        return cls(ours, is_parent=True), theirs

    @classmethod
    def adopt(cls, fd: int) -> Channel:
        """Return the stage's end, made of the inherited descriptor."""
        os.set_inheritable(fd, False)
        return cls(_socket.socket(fileno=fd), is_parent=False)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def send(self, message: str, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Send a message.

        Args:
            message: a key of NEXT that may follow the last one.
            body: its content.
            fds: descriptors that go along.

        Raises:
            ChannelEnded: the other side has ended.
        """
        self._advance(message, is_ours=True)
        content = message.encode() + b"\0" + body
        data = len(content).to_bytes(4, "big") + content
        control = []
        if fds:
            packed = b"".join(fd.to_bytes(4, _ORDER) for fd in fds)
            control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
        try:
            sent = self._socket.sendmsg([data], control, _socket.MSG_NOSIGNAL)
            while sent < len(data):
                sent += self._socket.send(data[sent:], _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelEnded("the other side has ended") from None

    def receive(self) -> tuple[str, bytes, list[int]]:
        """Return the next message, its content, and the descriptors that came along.

        Raises:
            ChannelEnded: the other side has ended.
            StageError: the message is none, or out of turn.
        """
        header, fds = self._receive_with_descriptors(4)
        size = int.from_bytes(header, "big")
        if size > LARGEST_MESSAGE_BYTES:
            raise StageError(f"a message of {size} bytes is no message")
        name, _, body = self._receive_exactly(size).partition(b"\0")
        message = name.decode("ascii", "replace")
        self._advance(message, is_ours=False)
        return message, body, fds

    def expect(self, message: str) -> tuple[bytes, list[int]]:
        """Return content and descriptors of the next message, which must be this one."""
        got, body, fds = self.receive()
        if got != message:
            raise StageError(f"{got} came where {message} was due")
        return body, fds

    def report(self, error: BaseException) -> None:
        """Tell the parent what went wrong; without a parent nobody is left to tell."""
        if isinstance(error, ChannelEnded):
            return
        if isinstance(error, MigrateError):
            message, hint = error.message, error.hint
        else:
            message, hint = f"{type(error).__name__}: {error}", ""
        self._last = "GO"  # an error may come at any time
        try:
            self.send("ERROR", fields(message, hint))
        except (ChannelEnded, OSError):  # or it is closed: this end has said its last word
            pass

    def _advance(self, message: str, *, is_ours: bool) -> None:
        """Refuse a message out of turn, or from the wrong side."""
        is_parents = self._is_parent == is_ours
        if message not in NEXT[self._last] or (message in FROM_PARENT) != is_parents:
            raise StageError(f"{message[:20]!r} cannot follow {self._last!r}")
        self._last = message

    def _receive_with_descriptors(self, size: int) -> tuple[bytes, list[int]]:
        fds: list[int] = []
        try:
            data, control, flags, _ = self._socket.recvmsg(
                size, _CONTROL_BYTES, _socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, control, flags = b"", [], 0
        for level, kind, packed in control:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                whole = len(packed) - len(packed) % 4
                fds += [int.from_bytes(packed[at : at + 4], _ORDER) for at in range(0, whole, 4)]
            elif (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS):
                self.sender_pid = int.from_bytes(packed[:4], _ORDER)
        if flags & _socket.MSG_CTRUNC:
            raise KernelError("recvmsg", "descriptors were cut off", 24)
        if not data:
            raise ChannelEnded("the other side has ended")
        return data + self._receive_exactly(size - len(data)), fds

    def _receive_exactly(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self._socket.recv(min(size, 1 << 20))
            except ConnectionResetError:
                part = b""
            if not part:
                raise ChannelEnded("the other side has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def fields(*values: str) -> bytes:
    """Texts as the body of a message of a stage."""
    return b"\0".join(os.fsencode(value) for value in values)


def split(body: bytes, count: int) -> list[str]:
    """Return the texts of a stage's message.

    Raises:
        StageError: they are not as many as the message has.
    """
    values = [os.fsdecode(value) for value in body.split(b"\0")]
    if len(values) != count:
        raise StageError(f"a message with {len(values)} fields where {count} are due")
    return values
