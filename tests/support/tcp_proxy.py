"""A TCP proxy that does what bad networks do: stall, slow down, cut, flip a byte.

Lives here: the proxy, as an object of a test and as a program. A test that has
its hosts in namespaces runs the program in one of them and writes commands to
its stdin, one a line:

    python -m tests.support.tcp_proxy 127.0.0.1:2222 10.0.0.2:22

    stall               hold everything back, as a cable pulled out does
    resume              let it through again
    limit BYTES         at most so many bytes a second and direction; 0: no limit
    cut                 reset every connection and refuse new ones
    mend                accept connections again
    cut-after BYTES     reset when so many more went to the server
    flip-after BYTES    flip a bit of the byte that many bytes further to the server
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self

_PIECE_BYTES = 64 * 1024
_BUFFER_BYTES = 256 * 1024
_Address = tuple[str, int]


@dataclass(slots=True)
class _Faults:
    """What the proxy does to the bytes, shared by all its threads."""

    flowing: threading.Event = field(default_factory=threading.Event)
    bytes_per_second: int = 0
    refusing: bool = False
    cut_at: int | None = None
    flip_at: int | None = None


class TcpProxy:
    """Forwards connections from a port of its own to a server.

    Args:
        server: where connections go.
        listen: address to listen on; port 0 lets the kernel choose.
    """

    def __init__(self, server: _Address, listen: _Address = ("127.0.0.1", 0)) -> None:
        self._server = server
        self._faults = _Faults()
        self._faults.flowing.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._lock = threading.Lock()
        self.to_server_bytes = 0
        """Bytes forwarded to the server so far."""
        self.to_client_bytes = 0
        """Bytes forwarded to clients so far."""
        self._listener = socket.create_server(listen)
        # What the proxy has taken is what the sender believes is sent.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(name="tcp-proxy", target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    # Faults.

    def stall(self) -> None:
        """Hold everything back until `resume`."""
        self._faults.flowing.clear()

    def resume(self) -> None:
        """Let everything through again."""
        self._faults.flowing.set()

    def limit(self, bytes_per_second: int) -> None:
        """Let at most so many bytes a second through in each direction; 0 for no limit."""
        self._faults.bytes_per_second = bytes_per_second

    def cut(self) -> None:
        """Reset every connection, and each new one at once."""
        self._faults.refusing = True
        self._reset_all()

    def mend(self) -> None:
        """Accept connections again."""
        self._faults.refusing = False

    def cut_after(self, count: int) -> None:
        """Cut when `count` more bytes went to the server."""
        self._faults.cut_at = self.to_server_bytes + count

    def flip_after(self, count: int) -> None:
        """Flip one bit of the byte that goes to the server `count` bytes from now."""
        self._faults.flip_at = self.to_server_bytes + count

    def _reset_all(self) -> None:
        with self._lock:
            for sock in (sock for pair in self._pairs for sock in pair if sock.fileno() >= 0):
                # Lingering for no time makes the kernel send a reset.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                _shut(sock)

    # Forwarding.

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._closing or self._faults.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._server, 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            self._spawn(partial(self._forward, client, server, to_server=True))
            self._spawn(partial(self._forward, server, client, to_server=False))

    def _forward(self, source: socket.socket, sink: socket.socket, *, to_server: bool) -> None:
        due = time.monotonic()
        try:
            while data := bytearray(source.recv(_PIECE_BYTES)):
                self._faults.flowing.wait()
                if to_server:
                    self._damage(data)
                for piece in self._pieces(data):
                    sink.sendall(piece)
                    if rate := self._faults.bytes_per_second:
                        due = max(due, time.monotonic()) + len(piece) / rate
                        self._sleep_until(due)
                self._count(len(data), to_server=to_server)
        except OSError:
            pass
        self._faults.flowing.wait()
        _shut(sink, socket.SHUT_WR)
        _shut(source, socket.SHUT_RD)

    def _pieces(self, data: bytearray) -> list[bytearray]:
        """A slow link is smooth: a twentieth of a second at a time."""
        rate = self._faults.bytes_per_second
        step = max(1, rate // 20) if rate else len(data)
        return [data[start : start + step] for start in range(0, len(data), step)]

    def _sleep_until(self, due: float) -> None:
        while not self._closing and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _damage(self, data: bytearray) -> None:
        flip_at = self._faults.flip_at
        if flip_at is not None and 0 <= flip_at - self.to_server_bytes < len(data):
            data[flip_at - self.to_server_bytes] ^= 1
            self._faults.flip_at = None
        cut_at = self._faults.cut_at
        if cut_at is not None and self.to_server_bytes + len(data) >= cut_at:
            self._faults.cut_at = None
            self.cut()

    def _count(self, count: int, *, to_server: bool) -> None:
        if to_server:
            self.to_server_bytes += count
        else:
            self.to_client_bytes += count

    def close(self) -> None:
        """Stop: no thread and no socket stays."""
        self._closing = True
        self.resume()
        _shut(self._listener)
        self._listener.close()
        self._reset_all()
        for thread in self._threads:
            thread.join()
        with self._lock:
            for pair in self._pairs:
                for sock in pair:
                    sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shut(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # not connected any more


def _address(text: str) -> _Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Run as a program until stdin ends."""
    listen, server = map(_address, sys.argv[1:3])
    with TcpProxy(server, listen) as proxy:
        plain = {
            "stall": proxy.stall,
            "resume": proxy.resume,
            "cut": proxy.cut,
            "mend": proxy.mend,
        }
        counted = {
            "limit": proxy.limit,
            "cut-after": proxy.cut_after,
            "flip-after": proxy.flip_after,
        }
        sys.stdout.write(f"{proxy.port}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            command, _, count = line.strip().partition(" ")
            if command in counted:
                counted[command](int(count))
            else:
                plain[command]()


if __name__ == "__main__":
    main()
