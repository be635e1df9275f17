"""The payload of containers under test, built once, and what it says.

Lives here: compiling payload.c, reading its status line and its log. The payload's
own comment says what it does.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.folders import CHECKOUT

SOURCE = Path(__file__).with_name("payload.c")


def binary() -> Path:
    """Return the static program, compiled when the source is newer."""
    path = CHECKOUT / ".prefix" / "payload"
    if not path.exists() or path.stat().st_mtime < SOURCE.stat().st_mtime:
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f"payload.{os.getpid()}")
        flags = ["-O2", "-static", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", unfinished, SOURCE], check=True)
        unfinished.rename(path)
    return path


@dataclass(frozen=True, slots=True)
class Status:
    """The payload's status line.

    Attributes:
        ticks: milliseconds counted so far.
        largest_gap_us: the longest it stood still since it started or was told to forget.
        memory: `none` until asked to check, then `intact` or `damaged`.
    """

    ticks: int
    largest_gap_us: int
    memory: str

    @classmethod
    def read(cls, path: Path) -> Status | None:
        """Return what the file says, or None before the first line is there."""
        try:
            words = dict(word.split("=", 1) for word in path.read_text().split())
            return cls(int(words["ticks"]), int(words["largest_gap_us"]), words["memory"])
        except (FileNotFoundError, KeyError, ValueError):
            return None


def log_is_whole(path: Path) -> bool:
    """Whether the log's lines are 1, 2, 3 … without a repeat or a gap."""
    lines = path.read_text().splitlines()
    return lines == [str(number) for number in range(1, len(lines) + 1)]
