"""A download that takes its time, over one connection.

    python -m tests.support.download ADDRESS PORT REPORT

Asks for /data and reads it slowly until it gets SIGUSR1, then as fast as it comes. Keeps
the file REPORT at JSON of `arrived` (bytes of the body), `digest` (SHA-256 of these, at the
end only) and `error`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

PART_BYTES = 64 << 10
SLOW_BYTES_A_SECOND = 3 << 20
REPORT_SECONDS = 0.05


def download(address: str, port: int, report: Path) -> None:
    """Read the body to its end, or until the connection breaks."""
    is_slow = True

    def hurry(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_slow
        is_slow = False

    signal.signal(signal.SIGUSR1, hurry)
    known: dict[str, Any] = {"arrived": 0, "digest": "", "error": ""}
    digest = hashlib.sha256()
    reported = 0.0
    connection = HTTPConnection(address, port, timeout=30)
    try:
        connection.request("GET", "/data")
        response = connection.getresponse()
        while part := response.read(PART_BYTES):
            digest.update(part)
            known["arrived"] += len(part)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                _report(report, known)
            if is_slow:
                time.sleep(PART_BYTES / SLOW_BYTES_A_SECOND)
        known["digest"] = digest.hexdigest()
    except (OSError, HTTPException) as problem:
        known["error"] = f"{type(problem).__name__}: {problem}"
    finally:
        connection.close()
    _report(report, known)


def _report(path: Path, known: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(known))
    os.replace(unfinished, path)


if __name__ == "__main__":
    download(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
