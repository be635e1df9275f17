"""The source's fence: while it stands, the container neither runs nor is heard.

Lives here: the freezer and the links of one container, moved together. Must not
live here: when (`live.frozen_copy`, `live.recover`). `live` only.

Two fences, because either alone has a hole. The freezer outlives this program and
CRIU, but the kernel goes on answering for frozen processes: it acknowledges TCP data
that nobody will read. A link that is down hears nothing, but stops no process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from migrate.checkpoint import letting_go
from migrate.errors import MigrateError
from migrate.runtime import cgroup

# A frozen process needs CRIU's hands off it before it can be let go.
TRACER_PATIENCE_SECONDS = 60.0
FREEZE_SECONDS = 10.0


class Switch(Protocol):
    """The host's ends of the container's links."""

    def down(self) -> None:
        """Let nothing through; does nothing where it is down already."""

    def up(self) -> None:
        """Let everything through and announce the container's addresses."""


class Fence:
    """One container's.

    Args:
        paths: its cgroups.
        switch: its links, or None where it has none.
        was_paused: it was frozen before; then `open` leaves it so.
    """

    def __init__(
        self, paths: Mapping[str, str], switch: Switch | None, *, was_paused: bool
    ) -> None:
        self._paths = paths
        self._switch = switch
        self._was_paused = was_paused

    def freeze(self) -> None:
        """Stop every process; may be called again to make sure."""
        cgroup.freeze(self._paths, FREEZE_SECONDS)

    def freeze_all(self) -> None:
        """Stop whatever there still is, once CRIU has let go of it."""
        wait_for_no_tracer(cgroup.procs(self._paths))
        if cgroup.procs(self._paths):
            self.freeze()

    def cut(self) -> None:
        """Take the links down."""
        if self._switch is not None:
            self._switch.down()

    def open(self) -> None:
        """Undo it all: the container goes on where it stood.

        Raises:
            MigrateError: it could not be let go; a link that does not come up is
                the second thing to mend, not a reason to leave it frozen.
        """
        failed: MigrateError | None = None
        if self._switch is not None:
            try:
                self._switch.up()
            except MigrateError as error:
                failed = error
        wait_for_no_tracer(cgroup.procs(self._paths))
        if not self._was_paused:
            letting_go.thaw(self._paths)
        if failed is not None:
            raise failed

    def condemn(self) -> None:
        """End every process without letting one run an instruction more.

        SIGKILL is pending before the thaw that v1 needs for a frozen process to die.
        """
        wait_for_no_tracer(cgroup.procs(self._paths))
        if cgroup.frozen_state(self._paths) != "FROZEN":
            with contextlib.suppress(MigrateError):  # killing needs no standstill, only order
                cgroup.freeze(self._paths, 1.0)
        for pid in cgroup.procs(self._paths):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cgroup.kill(self._paths)


def wait_for_no_tracer(pids: Sequence[int]) -> bool:
    """Wait until CRIU has let go of all of these; returns whether it has.

    CRIU is never killed: a killed CRIU can take its tasks along.
    """
    deadline = time.monotonic() + TRACER_PATIENCE_SECONDS
    pause = 0.001
    while any(_tracer(pid) for pid in pids):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def _tracer(pid: int) -> int:
    """Return the CRIU that traces a process, 0 for none, or a process that is gone.

    A debugger is nobody to wait for: it may stay for as long as the container.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("TracerPid:"):
                    tracer = int(line.split()[1])
                    return tracer if is_criu(tracer) else 0
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def is_criu(pid: int) -> bool:
    """Tell whether a process is a CRIU."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("criu")
    except OSError:
        return False
