"""The socket a created container's first process waits at.

Lives here: making it, finding it, and the conversation at it. Imported by `launch`
and `begin`, and by the waiting process, so that both know one text of it.

    start                        first process
    connect ───────────────────▶ accept
    START_WORD ────────────────▶ startContainer hooks, execve
             ◀──── end           it has become the payload: the connection is
                                 close-on-exec
             ◀──── text, end     what went wrong
"""

from __future__ import annotations

import _socket
import os

SOCKET = "start.sock"
START_WORD = b"start\n"

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


def knock(path: str) -> str | None:
    """Tell a waiting first process to go on, and hear how that went.

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
        while len(said) < LARGEST_PROBLEM_BYTES and (part := end.recv(4096)):
            said += part
    except (BrokenPipeError, ConnectionResetError):
        return None
    finally:
        end.close()
    return said.decode("utf-8", "replace")
