"""What the agent is asked, from both doors, in one queue.

Lives here: the queue, the thread that moves the link's calls into it, and the UNIX
socket on which a later `migrate agent` asks an earlier one whose link is gone. Must
not live here: what a call means. `live.agent` and `live.recover` only.

The socket is in the migration's own folder (0700), so root alone reaches it, and no
port is open anywhere. One connection is one call: a line of JSON each way.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from migrate.errors import LinkError, MigrateError, MigrationError, PeerError, TransportError
from migrate.transport.link import Link

SOCKET = "socket"
LARGEST_LINE_BYTES = 1 << 20
# How long the asking side may take to write its line.
PATIENCE_SECONDS = 10.0


@dataclass(slots=True)
class Call:
    """One question, and how to answer it.

    Attributes:
        from_link: it came from the source that started this agent.
    """

    method: str
    value: Any
    answer: Callable[[object], None]
    refuse: Callable[[Exception], None]
    from_link: bool


@dataclass(slots=True)
class LinkGone:
    """The source that started this agent cannot be heard any more."""

    error: TransportError


@dataclass(slots=True)
class Wake:
    """Something has changed that the agent waits for."""


class Inbox:
    """One queue for both doors."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Call | LinkGone | Wake] = queue.SimpleQueue()
        self._listener: socket.socket | None = None

    def wake(self) -> None:
        """Wake the agent; from any thread."""
        self._queue.put(Wake())

    def take(self) -> Call | LinkGone | Wake:
        """Return the next call; waits for ever, and costs nothing meanwhile."""
        return self._queue.get()

    def follow(self, link: Link) -> None:
        """Take in the link's calls until it ends, which is the last thing it says."""
        threading.Thread(target=self._follow, args=(link,), name="inbox-link", daemon=True).start()

    def _follow(self, link: Link) -> None:
        try:
            while True:
                message = link.receive()
                if message is None or not message.HasField("call"):
                    continue

                def answer(value: object, to: Any = message) -> None:
                    with contextlib.suppress(LinkError):
                        link.reply(to, value)

                def refuse(error: Exception, to: Any = message) -> None:
                    with contextlib.suppress(LinkError):
                        link.reply_error(to, error)

                self._queue.put(
                    Call(
                        message.call.method,
                        link.decode(message.call.json),
                        answer,
                        refuse,
                        from_link=True,
                    )
                )
        except TransportError as error:
            self._queue.put(LinkGone(error))

    def listen(self, folder: str) -> None:
        """Open the door in the migration's folder."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _directory(folder) as at:
            path = f"/proc/self/fd/{at}/{SOCKET}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
        listener.listen(8)
        self._listener = listener
        threading.Thread(
            target=self._accept, args=(listener,), name="inbox-socket", daemon=True
        ).start()

    def stop_listening(self) -> None:
        """Close the door; who waits at it is turned away."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed by stop_listening
                return
            threading.Thread(
                target=self._ask, args=(connection,), name="inbox-call", daemon=True
            ).start()

    def _ask(self, connection: socket.socket) -> None:
        """Queue one connection's call."""
        connection.settimeout(PATIENCE_SECONDS)
        try:
            data = json.loads(_read_line(connection))
            method, value = str(data["method"]), data["value"]
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()
            return

        def say(reply: dict[str, object]) -> None:
            with contextlib.suppress(OSError), connection:
                connection.sendall(json.dumps(reply).encode() + b"\n")

        def refuse(error: Exception) -> None:
            known = error if isinstance(error, MigrateError) else MigrationError(str(error))
            say({"code": known.code, "message": known.message, "hint": known.hint})

        self._queue.put(
            Call(method, value, lambda value: say({"result": value}), refuse, from_link=False)
        )


def ask(folder: str, method: str, value: object, timeout_seconds: float) -> Any:
    """Ask the agent that drives the migration of this folder.

    Raises:
        LinkError: nobody listens there, or no answer came in time.
        PeerError: it answered with an error.
    """
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        _directory(folder) as at,
    ):
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(f"/proc/self/fd/{at}/{SOCKET}")
            connection.sendall(json.dumps({"method": method, "value": value}).encode() + b"\n")
            line = _read_line(connection)
            reply = json.loads(line) if line else {}
        except (OSError, ValueError) as error:
            raise LinkError(f"the agent in {folder} does not answer: {error}") from error
    if "result" in reply:
        return reply["result"]
    if "code" in reply:
        raise PeerError("agent", reply["code"], reply["message"], reply["hint"])
    raise LinkError(f"the agent in {folder} went away without an answer")


@contextlib.contextmanager
def _directory(folder: str) -> Iterator[int]:
    """Give a descriptor of a folder: a socket's path may be 107 bytes, a folder's longer."""
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield at
    finally:
        os.close(at)


def _read_line(connection: socket.socket) -> bytes:
    """Return what comes until a newline or the end."""
    data = b""
    while not data.endswith(b"\n") and len(data) <= LARGEST_LINE_BYTES:
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data
