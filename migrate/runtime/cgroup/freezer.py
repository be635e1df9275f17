"""Stopping every process of a container at once, and letting them go on.

Lives here: the v1 freezer and cgroup.freeze of v2, see the kernel's
admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst. Imported through
`migrate.runtime.cgroup`, and by `runtime.state` for the status.
"""

from __future__ import annotations

import time

from migrate.errors import CgroupError
from migrate.runtime.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    FrozenState = Literal["THAWED", "FREEZING", "FROZEN"]

POLL_SECONDS = 0.001
# v1: a task caught in vfork(2) or in an uninterruptible sleep keeps the state at
# FREEZING; letting go for a moment gives it the chance to reach a place to stop.
ROUNDS_BEFORE_A_BREATH = 50


def frozen_state(paths: Mapping[str, str]) -> FrozenState:
    """Return whether a container is frozen; a cgroup that is gone is thawed."""
    directory = _v1_directory(paths)
    if directory is not None:
        state = files.read_if_there(f"{directory}/freezer.state")
        if state == "FROZEN":
            return "FROZEN"
        return "FREEZING" if state == "FREEZING" else "THAWED"
    directory = paths.get("")
    if directory is None or files.read_if_there(f"{directory}/cgroup.freeze") != "1":
        return "THAWED"
    events = files.read_if_there(f"{directory}/cgroup.events") or ""
    return "FROZEN" if "frozen 1" in events.split("\n") else "FREEZING"


def freeze(paths: Mapping[str, str], timeout_seconds: float = 10.0) -> None:
    """Stop every process of a container, and return once all have stopped.

    Raises:
        CgroupError: not all stopped in time, and all were let go again; or there is no
            freezer.
    """
    from migrate.runtime.cgroup.tree import procs, refuse_strangers

    deadline = time.monotonic() + timeout_seconds
    rounds = 0
    refuse_strangers(paths, procs(paths))
    _set(paths, frozen=True)
    while frozen_state(paths) != "FROZEN":
        if time.monotonic() >= deadline:
            thaw(paths)
            raise CgroupError(
                f"not every process stopped within {timeout_seconds:g} s",
                "Look for a process in uninterruptible sleep (state D).",
            )
        time.sleep(POLL_SECONDS)
        rounds += 1
        if _v1_directory(paths) is not None:
            if rounds % ROUNDS_BEFORE_A_BREATH == 0:
                _set(paths, frozen=False)
                time.sleep(POLL_SECONDS)
            # Processes that came in meanwhile are only stopped by asking again.
            _set(paths, frozen=True)


def thaw(paths: Mapping[str, str]) -> None:
    """Let a container's processes go on; does nothing where the cgroup is gone."""
    try:
        _set(paths, frozen=False)
    except CgroupError:
        directory = _v1_directory(paths) or paths.get("")
        if directory is not None and files.read_if_there(f"{directory}/cgroup.procs") is not None:
            raise


def _v1_directory(paths: Mapping[str, str]) -> str | None:
    """Return the directory in the v1 freezer's tree, if there is one."""
    for key, directory in paths.items():
        if key == "freezer" or "freezer" in key.split(","):
            return directory
    return None


def _set(paths: Mapping[str, str], *, frozen: bool) -> None:
    """Ask for a state; reaching it takes time."""
    directory = _v1_directory(paths)
    if directory is not None:
        files.write(f"{directory}/freezer.state", "FROZEN" if frozen else "THAWED")
    elif "" in paths:
        files.write(f"{paths['']}/cgroup.freeze", "1" if frozen else "0")
    else:
        raise CgroupError(
            "the container has no freezer cgroup",
            "Mount the freezer controller, or cgroup2, before the container is created.",
        )
