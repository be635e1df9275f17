"""The socket a created container's first process waits at.

Lives here: making it, finding it, and the conversation at it. Imported by `launch`
and `begin`, and by the waiting process, so that both know one text of it.

    start                        first process
    connect ───────────────────▶ accept
    START_WORD ────────────────▶ startContainer hooks, execve
             ◀──── LISTENER_WORD, descriptor
                                 its system call filter is loaded, and asks
             ◀──── end           it has become the payload: the connection is
                                 close-on-exec
             ◀──── text, end     what went wrong
"""

from __future__ import annotations

import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET = "start.sock"
START_WORD = b"start\n"
LISTENER_WORD = b"\0"

# sun_path without its final zero, see unix(7).
LONGEST_SOCKET_PATH = 107
LARGEST_PROBLEM_BYTES = 65536


def listen(path: str) -> int:
    """A listening socket at a path, which may be longer than the kernel's limit."""
    end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end.bind(f"/proc/self/fd/{fd}/{name}")
        end.listen(1)
    finally:
        os.close(fd)
    return end.detach()


def connect(path: str) -> _socket.socket:
    """A socket connected to a path, see `listen`.

    Raises:
        OSError: FileNotFoundError, ConnectionRefusedError where nobody listens.
    """
    end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            end.connect(path)
            return end
        directory, name = os.path.split(path)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            end.connect(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    except BaseException:
        end.close()
        raise
    return end


def send_listener(connection: _socket.socket, fd: int) -> None:
    """Hand the listener of one's filter to `start`, from the waiting process."""
    packed = fd.to_bytes(4, sys.byteorder)
    connection.sendmsg([LISTENER_WORD], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])


def knock(path: str, take_listener: Callable[[int], None]) -> str | None:
    """Tell a waiting first process to go on, and hear how that went.

    Args:
        path: of its socket.
        take_listener: called with the listener of its system call filter, if it has one.

    Returns:
        "" when it has become the payload, the problem when it could not, None
        when nobody waits.
    """
    try:
        end = connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    try:
        end.sendall(START_WORD)
        said = b""
        while len(said) < LARGEST_PROBLEM_BYTES:
            part, control, _, _ = end.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            for _, _, packed in control:
                take_listener(int.from_bytes(packed[:4], sys.byteorder))
            if not part:
                break
            said += part
    except (BrokenPipeError, ConnectionResetError):
        return None
    finally:
        end.close()
    return said.removeprefix(LISTENER_WORD).decode("utf-8", "replace")
