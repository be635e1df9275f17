"""A TCP connection that watches whether it is served without a gap.

    python -m tests.support.connection ADDRESS PORT REPORT

Reads the payload's numbers until it gets SIGTERM, and keeps the file REPORT at
what it saw: JSON of `numbers`, `out_of_sequence`, `first`, `last`,
`largest_gap_ms`, `local_port` and `error` ("" while the connection stands).
Run in a host by `tests.support`; also by demo and benchmarks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

LINE_BYTES = 13
REPORT_SECONDS = 0.05


class Watch:
    """What was read so far."""

    def __init__(self) -> None:
        self.numbers = self.out_of_sequence = 0
        self.first: int | None = None
        self.last: int | None = None
        self.largest_gap_seconds = 0.0
        self._rest = b""
        self._at: float | None = None

    def take(self, data: bytes) -> None:
        """Count what arrived now."""
        now = time.monotonic()
        if self._at is not None:
            self.largest_gap_seconds = max(self.largest_gap_seconds, now - self._at)
        self._at = now
        self._rest += data
        whole = len(self._rest) - len(self._rest) % LINE_BYTES
        for number in map(int, self._rest[:whole].split()):
            if self.last is not None and number != self.last + 1:
                self.out_of_sequence += 1
            self.first = number if self.first is None else self.first
            self.last = number
            self.numbers += 1
        self._rest = self._rest[whole:]


def watch(address: str, port: int, report: Path) -> None:
    """Read until told to stop, or until the connection breaks."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    seen = Watch()
    error = ""
    with socket.create_connection((address, port), timeout=10) as connection:
        local_port = connection.getsockname()[1]
        connection.settimeout(REPORT_SECONDS)
        reported = 0.0
        while not error:
            try:
                data = connection.recv(1 << 16)
                if data:
                    seen.take(data)
                else:
                    error = "the server closed the connection"
            except TimeoutError:
                pass
            except OSError as problem:
                error = str(problem)
            if stopping or error or time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                _write(report, seen, local_port, error)
            if stopping:
                return


def _write(report: Path, seen: Watch, local_port: int, error: str) -> None:
    text: dict[str, Any] = {
        "numbers": seen.numbers,
        "out_of_sequence": seen.out_of_sequence,
        "first": seen.first,
        "last": seen.last,
        "largest_gap_ms": round(seen.largest_gap_seconds * 1e3, 1),
        "local_port": local_port,
        "error": error,
    }
    unfinished = report.with_suffix(".new")
    unfinished.write_text(json.dumps(text))
    os.replace(unfinished, report)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
