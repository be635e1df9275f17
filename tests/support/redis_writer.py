"""A client of redis that remembers what was acknowledged.

    python -m tests.support.redis_writer ADDRESS PORT REPORT

Writes numbered keys over one connection, and keeps the file REPORT at what it knows: JSON
of `acknowledged` (keys 1 to that have been), `wrong` (keys that are not what was written;
null until looked at) and `error`. On SIGTERM it writes no more, reads all keys again over
the same connection, and ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

REPORT_SECONDS = 0.05
AT_ONCE = 500


class Redis:
    """One connection, in the protocol RESP2."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._replies: IO[bytes] = connection.makefile("rb")

    def ask(self, *words: str) -> Any:
        """Send a command and return its reply.

        Raises:
            ConnectionError: the server has closed the connection, or replied an error.
        """
        parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
        self._connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        return self._reply()

    def _reply(self) -> Any:
        line = self._replies.readline().decode()
        if not line.endswith("\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[0], line[1:-2]
        if kind == "*":
            return [self._reply() for _ in range(int(rest))]
        if kind == "$":
            size = int(rest)
            return self._replies.read(size + 2)[:-2].decode() if size >= 0 else None
        if kind == "-":
            raise ConnectionError(rest)
        return rest


def name(number: int) -> str:
    """Return the name of the key with a number."""
    return f"numbered:{number:08}"


def value(number: int) -> str:
    """Return what is written there."""
    return f"{number * 2654435761 % (1 << 32):08x}" * 16


def write(address: str, port: int, report: Path) -> None:
    """Write until told to stop, or until the connection breaks."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    known: dict[str, Any] = {"acknowledged": 0, "wrong": None, "error": ""}
    reported = 0.0
    try:
        with socket.create_connection((address, port), timeout=30) as connection:
            redis = Redis(connection)
            while not stopping:
                number = known["acknowledged"] + 1
                redis.ask("SET", name(number), value(number))
                known["acknowledged"] = number
                if time.monotonic() - reported > REPORT_SECONDS:
                    reported = time.monotonic()
                    _report(report, known)
            known["wrong"] = _wrong(redis, known["acknowledged"])
    except OSError as problem:
        known["error"] = str(problem) or type(problem).__name__
    _report(report, known)


def _wrong(redis: Redis, last: int) -> int:
    """Return how many of the keys to `last` are not what was written."""
    wrong = 0
    for first in range(1, last + 1, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, last + 1))
        found = redis.ask("MGET", *map(name, numbers))
        wrong += sum(text != value(each) for each, text in zip(numbers, found, strict=True))
    return wrong


def _report(path: Path, known: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(known))
    os.replace(unfinished, path)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
