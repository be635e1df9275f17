"""Locks on files between the container and the rest of its host.

Lives here: who outside of it holds a lock on a file that it has open, see proc_locks(5).
Must not live here: its own locks, which follow (`checkpoint.inspect`). `live` only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from migrate.checkpoint.facts import Facts
from migrate.events import Finding
from migrate.live.comparison import finding
from migrate.live.kernel_facts import lines


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield the locks that others hold on the container's files: nobody holds them there."""
    held = list(_held_outside({each.pid for each in facts.processes}))
    if not held:
        return
    opened = _opened(facts)
    for pid, kind, file in held:
        if file in opened:
            name, path = opened[file]
            yield finding(
                "locks",
                "warn",
                f"{_holder(pid)} outside the container holds a lock ({kind}) on {path}, which "
                f"process {name} has open: on the other host nobody holds it",
                "End what holds it first, if the container relies on it.",
            )


def _held_outside(own: set[int]) -> Iterator[tuple[int, str, tuple[int, int]]]:
    """Yield process, kind, device and inode of each lock that none of ours holds."""
    for line in lines("/proc/locks"):
        words = line.split()
        if len(words) < 6 or words[1] == "->":
            continue
        pid, (major, minor, inode) = int(words[4]), words[5].split(":")
        if pid > 0 and pid not in own:
            yield pid, words[1], (os.makedev(int(major, 16), int(minor, 16)), int(inode))


def _opened(facts: Facts) -> dict[tuple[int, int], tuple[str, str]]:
    """Return the container's open files: who has each, and its path."""
    found = {}
    for each in facts.processes:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{each.pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{each.pid}/fd/{number}")
                    path = os.readlink(f"/proc/{each.pid}/fd/{number}")
                    name = f"{each.inner_pid} ({each.command})"
                    found[status.st_dev, status.st_ino] = (name, path)
    return found


def _holder(pid: int) -> str:
    names = lines(f"/proc/{pid}/comm")
    return f"process {pid} ({names[0] if names else 'gone'})"
