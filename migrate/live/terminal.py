"""The terminal of a container that has come from another host.

Lives here: starting the process that holds it (`live.terminal_keeper`), and speaking with that.
Must not live here: the person's own terminal (`runtime.relay`). Imported by `live`, and
by `cli` for `attach`.

The process is started before anything is frozen, and gets the master when CRIU has made
it, before the container runs. It outlives the agent.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from migrate.checkpoint import own_program
from migrate.errors import MigrationError, UsageError
from migrate.live.terminal_keeper import ATTACH, EARLIER, HEAD
from migrate.runtime import door
from migrate.runtime.statedir import TERMINAL

_TELL_SECONDS = 5.0


class Holder:
    """The keeper of one terminal, as the agent has it; entered before the freeze.

    Args:
        folder: the container's directory.
    """

    def __init__(self, folder: str) -> None:
        path = f"{folder}/{TERMINAL}"
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        listener = -1
        try:
            listener = door.listen(path)
            self._process = own_program.start(
                "migrate.live.terminal_keeper",
                [str(theirs.fileno()), str(listener), path],
                pass_fds=[theirs.fileno(), listener],
            )
        except OSError as error:
            self._control.close()
            raise MigrationError(
                f"terminal of the container, {path}: {(error.strerror or '').lower()}"
            ) from error
        finally:
            theirs.close()
            if listener >= 0:
                os.close(listener)

    def take(self, master: int) -> None:
        """Hand the master over."""
        try:
            socket.send_fds(self._control, [b"M"], [master])
        except OSError as error:
            raise MigrationError(
                f"the process that was to hold the container's terminal is gone: {error.strerror}"
            ) from error
        finally:
            os.close(master)

    def close(self) -> None:
        """Let go of the keeper: one that has a terminal keeps it, another ends."""
        self._control.close()
        self._process.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def put_before(folder: str, written: str) -> None:
    """Give a keeper what was written and not read where the terminal came from.

    Nothing that goes wrong with that may stop a commit.

    Args:
        folder: the container's directory.
        written: in base64.
    """
    with contextlib.suppress(OSError, ValueError):
        content = base64.b64decode(written)
        with _connected(f"{folder}/{TERMINAL}") as connection:
            connection.settimeout(_TELL_SECONDS)
            connection.sendall(EARLIER + content)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # it has taken it: what the container writes next comes later


@dataclass(slots=True, frozen=True)
class Attached:
    """A terminal one is attached to.

    Attributes:
        master: the caller's, as long as the connection is there.
        shown: what was written last.
        connection: its end gives the terminal back.
    """

    master: int
    shown: bytes
    connection: socket.socket


def attach(folder: str, container_id: str) -> Attached:
    """Return a container's terminal.

    Args:
        folder: the container's directory.

    Raises:
        UsageError: nobody keeps it, or somebody is attached already.
    """
    try:
        connection = _connected(f"{folder}/{TERMINAL}")
    except OSError:
        raise UsageError(
            f'container "{container_id}" has no terminal that can be attached to',
            "That can be done where a container with a terminal has come to by `migrate live`; "
            "else its terminal is held by who started it.",
        ) from None
    try:
        connection.sendall(ATTACH)
        head, descriptors, _, _ = socket.recv_fds(connection, HEAD.size, 1)
        if not descriptors:
            connection.close()
            raise UsageError(
                f'somebody is attached to the terminal of container "{container_id}"',
                "Let them detach first (Ctrl-P Ctrl-Q).",
            )
        wanted, shown = HEAD.unpack(head)[0], b""
        while len(shown) < wanted and (part := connection.recv(wanted - len(shown))):
            shown += part
    except OSError as error:
        connection.close()
        raise MigrationError(f"terminal of container: {(error.strerror or '').lower()}") from error
    return Attached(descriptors[0], shown, connection)


def _connected(path: str) -> socket.socket:
    return socket.socket(fileno=door.connect(path).detach())
