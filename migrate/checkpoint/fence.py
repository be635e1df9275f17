"""Keeping a container from running while it may be running elsewhere.

Lives here: the order of freezing, holding, letting go and ending. Must not live here:
the freezer itself (`runtime.cgroup`), the decision (`live`). May be imported by
`checkpoint` and `live`.

CRIU stops tasks by ptrace, and a tracer's death lets its tasks run. So the control
group's freezer stands behind it:

    before the dump     frozen          CRIU is told (`freeze_cgroup`) and puts it back
                                        when it fails
    during the dump     thawed by CRIU, stopped by ptrace
    post-dump           frozen again, still stopped by ptrace: whoever dies from here
                        on, the tasks stay where they are
    after the commit    killed, then thawed: a frozen task of v1 dies only then
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from migrate.checkpoint import letting_go
from migrate.errors import CgroupError
from migrate.runtime import cgroup


class Fence:
    """The freezer of one container.

    Args:
        paths: its control groups, as in its record.
        timeout_seconds: how long its tasks may take to stop.
    """

    def __init__(self, paths: Mapping[str, str], timeout_seconds: float = 10.0) -> None:
        self._paths = dict(paths)
        self._timeout_seconds = timeout_seconds
        self.was_frozen = cgroup.frozen_state(self._paths) != "THAWED"

    @property
    def directory(self) -> str:
        """The control group CRIU shall freeze and thaw (`freeze_cgroup`)."""
        for key, directory in self._paths.items():
            if "freezer" in key.split(","):
                return directory
        if "" in self._paths:
            return self._paths[""]
        raise CgroupError(
            "the container has no freezer cgroup",
            "Mount the freezer controller, or cgroup2, before the container is created.",
        )

    def freeze(self) -> None:
        """Stop every task; return once all have stopped."""
        cgroup.freeze(self._paths, self._timeout_seconds)

    def is_closed(self) -> bool:
        """Tell whether every task is stopped by the freezer."""
        return cgroup.frozen_state(self._paths) == "FROZEN"

    def thaw(self) -> None:
        """Let the tasks run on, unless they were frozen before it all began."""
        if not self.was_frozen:
            letting_go.thaw(self._paths)

    def end(self) -> None:
        """Kill every task for good, and only then let go of them.

        The order matters: thawed first, a task whose tracer is dead would run.
        """
        for pid in cgroup.procs(self._paths):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        cgroup.thaw(self._paths)
