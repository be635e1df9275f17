"""Whether all of a container's memory is in its place.

Lives here: the note that some of it is not, in the container's state folder. Must not
live here: putting it there (`keeping`). May be imported by `checkpoint` and `live`.

A container that has just arrived may run while its memory is still filled in. CRIU, at
another dump, would take a page that is missing for one that never was. So whoever wants
to dump it waits; it is a matter of seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable

from migrate.errors import CriuError
from migrate.runtime.state import process_start_ticks
from migrate.runtime.statedir import MEMORY_ARRIVING

PATIENCE_SECONDS = 300.0
_PAUSE_SECONDS = 0.05


def note(folder: str, pids: Iterable[int]) -> None:
    """Note that these processes are filling memory in, as long as one of them lives."""
    content = json.dumps([[pid, process_start_ticks(pid)] for pid in pids])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(f"{folder}/{MEMORY_ARRIVING}", flags, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(content)


def forget(folder: str) -> None:
    """Take the note away: all of it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{folder}/{MEMORY_ARRIVING}")


def wait_until_whole(folder: str, container_id: str) -> None:
    """Wait until all of a container's memory is in its place.

    Raises:
        CriuError: it takes too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _is_arriving(folder):
        if time.monotonic() >= deadline:
            raise CriuError(
                f'memory of container "{container_id}" is still arriving from another host',
                "Try again later.",
            )
        time.sleep(_PAUSE_SECONDS)


def _is_arriving(folder: str) -> bool:
    try:
        with open(f"{folder}/{MEMORY_ARRIVING}", encoding="ascii") as file:
            fillers = json.loads(file.read() or "[]")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except ValueError:
        return False  # cut off by a restart, after which no process is left
    return any(_is_alive(pid, ticks) for pid, ticks in fillers)


def _is_alive(pid: int, start_ticks: int) -> bool:
    return start_ticks > 0 and process_start_ticks(pid) == start_ticks
