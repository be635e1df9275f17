"""What is really there, beside what the journals say.

Lives here: looking at processes, freezers and CRIU's leftovers. Must not live here:
changing anything but to wait. `live` only.

A process is named by its pid and its start time, in the boot its journal names: a
reused pid is never taken for the container.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from migrate.live.decision import Tasks
from migrate.live.fence import is_criu, wait_for_no_tracer
from migrate.live.journal import Journal
from migrate.runtime import cgroup
from migrate.runtime.state import process_start_ticks

# CRIU ends by itself once its caller is gone; how long it may take over it.
CRIU_PATIENCE_SECONDS = 60.0


def is_alive(pid: int, start_ticks: int) -> bool:
    """Tell whether a process is there, is the same one, and is no zombie."""
    if pid <= 0 or process_start_ticks(pid) != start_ticks:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def look_at_tasks(journal: Journal, paths: Mapping[str, str]) -> Tasks:
    """Return what the container of a journal is doing, once CRIU's hands are off it.

    The journal names its first process as `pid` and `pid_start_ticks`.
    """
    pid, start_ticks = journal.fact("pid"), journal.fact("pid_start_ticks")
    if not journal.same_boot or not isinstance(pid, int) or not isinstance(start_ticks, int):
        return Tasks.GONE
    wait_for_criu(journal)
    if not is_alive(pid, start_ticks):
        return Tasks.GONE
    wait_for_no_tracer(cgroup.procs(paths))
    if not is_alive(pid, start_ticks):
        return Tasks.GONE
    return Tasks.FROZEN if cgroup.frozen_state(paths) == "FROZEN" else Tasks.RUNNING


def wait_for_criu(journal: Journal) -> bool:
    """Wait until the CRIU that a journal names has ended; returns whether it has.

    Its caller is dead, since the journal is locked by us: CRIU sees its socket closed
    at the next thing it has to say, undoes what it did, and ends.
    """
    pid, start_ticks = journal.fact("criu"), journal.fact("criu_start_ticks")
    if not isinstance(pid, int) or not isinstance(start_ticks, int) or not journal.same_boot:
        return True
    deadline = time.monotonic() + CRIU_PATIENCE_SECONDS
    while is_alive(pid, start_ticks):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def wait_for_criu_in(paths: Mapping[str, str]) -> bool:
    """Wait until no CRIU is left in a control group; returns whether that is so.

    A restoring CRIU lives where the container shall. When its caller died while the
    container was held, it kills what it restored; that takes a moment.
    """
    deadline = time.monotonic() + CRIU_PATIENCE_SECONDS
    while criu_in(paths):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def criu_in(paths: Mapping[str, str]) -> list[int]:
    """Return the pids of CRIU in a control group."""
    return [pid for pid in cgroup.procs(paths) if is_criu(pid)]


def stamp(name: str, pid: int) -> dict[str, int]:
    """Return what a journal keeps of a process."""
    return {name: pid, f"{name}_start_ticks": process_start_ticks(pid)}


def remove_quietly(path: str) -> None:
    """Remove a file that may be gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
