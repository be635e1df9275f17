"""The process that holds a moved container's terminal until somebody attaches to it.

Lives here: its whole life. Must not live here: starting it and talking to it
(`live.terminal`). Started as a program of its own; imports nothing but the standard
library, because it stays as long as the container.

    agent ──control──▶ keeper ◀──terminal.sock── migrate attach

    control            the terminal's master, once; its end before that is our end
    ATTACH             answered by what was shown last, and the master: the visitor reads
                       and writes it itself, until the connection ends
    EARLIER, bytes     what had been written and not read where the terminal came from

While nobody is attached it reads what is written, such that a program never waits for a
reader, and keeps the last of it. It ends when the container's directory has gone.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

ATTACH = b"A"
EARLIER = b"E"
HEAD = struct.Struct(">I")
KEPT_BYTES = 64 << 10
_PART_BYTES = 1 << 16
# A terminal that nobody has open hangs up, and is there again when it is opened again.
_LOOK_SECONDS = 0.2
_WORD_SECONDS = 5.0


class Keeper:
    """One terminal's keeper.

    Args:
        control: to the agent.
        listener: bound to `path`.
        path: of the socket; it goes with the container.
    """

    def __init__(self, control: socket.socket, listener: socket.socket, path: str) -> None:
        self._control: socket.socket | None = control
        self._listener = listener
        self._path = path
        self._inode = os.stat(path).st_ino
        self._master = -1
        self._is_hung_up = False
        self._shown = b""
        self._visitor: socket.socket | None = None

    def run(self) -> None:
        """Keep the terminal until the container is gone."""
        while self._control is not None or self._master >= 0:
            poll = select.poll()
            for descriptor in self._watched():
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(_LOOK_SECONDS * 1000)}
            if self._control is not None and self._control.fileno() in ready:
                self._take_master(self._control)
            if self._listener.fileno() in ready:
                self._let_in()
            if self._visitor is not None and self._visitor.fileno() in ready:
                self._see_off(self._visitor)
            if self._visitor is None and (self._master in ready or self._is_hung_up):
                self._read()
            if self._is_hung_up and not self._is_wanted():
                return

    def _watched(self) -> list[int]:
        """Return the descriptors to wait for."""
        found = [self._listener.fileno()]
        found += [each.fileno() for each in (self._control, self._visitor) if each is not None]
        if self._master >= 0 and self._visitor is None and not self._is_hung_up:
            found.append(self._master)
        return found

    def _is_wanted(self) -> bool:
        """Tell whether the container is still there, running or not."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def _take_master(self, control: socket.socket) -> None:
        """Take the master; the end of the conversation ends it."""
        try:
            said, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        except OSError:
            said, descriptors = b"", []
        if descriptors:
            self._master = descriptors[0]
            os.set_blocking(self._master, False)
        if not said:
            control.close()
            self._control = None

    def _let_in(self) -> None:
        """Answer who has connected."""
        visitor, _ = self._listener.accept()
        try:
            visitor.settimeout(_WORD_SECONDS)
            word = visitor.recv(1)
            if word == EARLIER:
                while part := visitor.recv(_PART_BYTES):
                    self._note(part)
            elif word == ATTACH and self._visitor is None and self._master >= 0:
                self._read()
                socket.send_fds(visitor, [HEAD.pack(len(self._shown))], [self._master])
                visitor.sendall(self._shown)
                self._visitor = visitor
                return
        except OSError:
            pass  # whoever it was has gone
        visitor.close()

    def _see_off(self, visitor: socket.socket) -> None:
        """Take the terminal back when its visitor has gone."""
        try:
            if visitor.recv(_PART_BYTES):
                return
        except OSError:
            pass
        visitor.close()
        self._visitor = None
        os.set_blocking(self._master, False)

    def _read(self) -> None:
        """Read what was written, and keep the last of it."""
        self._is_hung_up = False
        try:
            while part := os.read(self._master, _PART_BYTES):
                self._note(part)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._is_hung_up = True

    def _note(self, part: bytes) -> None:
        self._shown = (self._shown + part)[-KEPT_BYTES:]


def main() -> None:
    """Run with the descriptors and the path that the command line names."""
    control, listener, path = sys.argv[1:]
    Keeper(socket.socket(fileno=int(control)), socket.socket(fileno=int(listener)), path).run()
