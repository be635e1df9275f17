"""Stopping a container where it is, and letting it go on.

Lives here: the two verbs. Must not live here: how a cgroup freezes (`cgroup.freezer`).
May be imported by every room above `runtime`.
"""

from __future__ import annotations

from migrate.errors import WrongStatus
from migrate.runtime import state
from migrate.runtime.cgroup.freezer import freeze, thaw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.state import Record


def pause(record: Record) -> None:
    """Stop every process of a created or running container; its lock is held.

    Raises:
        WrongStatus: it is neither.
        CgroupError: not every process stopped; all go on.
    """
    if state.status(record) not in ("created", "running"):
        raise WrongStatus("container not running")
    freeze(record["cgroup"])


def resume(record: Record) -> None:
    """Let a paused container go on; its lock is held.

    Raises:
        WrongStatus: it is not paused.
    """
    if state.status(record) != "paused":
        raise WrongStatus("container not paused")
    thaw(record["cgroup"])
