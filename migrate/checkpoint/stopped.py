"""Processes that are stopped by a signal, as by Ctrl-Z in a shell, before a dump.

Lives here: finding them. Must not live here: what a dump does about them (`dump`). May
be imported by `checkpoint` only.

A process that is stopped and then frozen by a control group of version 1 can be seized
by nobody: ptrace(2) waits, for ever and out of reach of signals, until it has gone from
the one stop to the other, which the freezer does not let it. So a container with such a
process is stopped by CRIU alone, by ptrace, and frozen when CRIU has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from migrate.checkpoint import procfs
from migrate.errors import CriuError
from migrate.runtime import cgroup

_STOPPED = "do_signal_stop"  # what a stopped process waits in, also where it is frozen


def stopped(paths: Mapping[str, str]) -> Iterator[int]:
    """Yield the stopped processes of a container.

    Args:
        paths: its control groups.
    """
    for pid in cgroup.procs(paths):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = procfs.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
            if state == "T" or (
                state == "D" and procfs.read(f"/proc/{pid}/wchan").startswith(_STOPPED)
            ):
                yield pid


def refuse_frozen(paths: Mapping[str, str]) -> None:
    """Refuse a frozen container with a stopped process: CRIU would wait for ever.

    Raises:
        CriuError: names the process.
    """
    pid = next(stopped(paths), 0)
    if pid:
        raise CriuError(
            f"process {pid} is stopped by a signal and frozen, and nobody can take it so",
            "Run `migrate resume` first; if it was not paused, try again.",
        )
