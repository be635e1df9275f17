"""The unit of a container: planned, started, changed, stopped.

Lives here: what is done for a container by systemd, and when, after runc's
libcontainer/cgroups/systemd. Must not live here: D-Bus (`bus`), the cgroup's files.

The first record names the unit and its directories before the unit is there, so that
a `create` that was killed is cleared away by the record. A scope cannot be without a
process: it is made around the container's first stage.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup.hierarchy import hierarchies, is_unified
from migrate.runtime.idmaps import in_user_namespace
from migrate.runtime.systemd import names, properties
from migrate.runtime.systemd.bus import SYSTEM, USER, Bus, UnitExists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from migrate.runtime.state import Record
    from migrate.runtime.systemd.properties import Property

DEFAULT_SLICES = {SYSTEM: "system.slice", USER: "user.slice"}

__all__ = ["UnitExists", "attach", "is_whole", "place", "start", "stop", "update"]


def place(cgroups_path: str | None, container_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return a container's directories and its unit, as its record keeps both.

    Raises:
        CgroupError: no unit can be called that, or systemd cannot be reached.
    """
    which = SYSTEM if os.geteuid() == 0 and not in_user_namespace() else USER
    unit, slice_name = names.unit_and_slice(cgroups_path, container_id, DEFAULT_SLICES[which])
    trees = {key: tree.mount_point for key, tree in hierarchies().items()}
    if which == USER and not is_unified(trees):
        raise CgroupError(
            "a user's own systemd gives out control groups on a cgroup v2 host only",
            "Leave --systemd-cgroup out.",
        )
    with Bus(which) as bus:
        group = bus.group()
    paths = names.directories(trees, group, unit, slice_name)
    return paths, {"bus": which, "unit": unit, "slice": slice_name}


def start(record: Record, pid: int, resources: Mapping[str, Any]) -> None:
    """Make the container's unit around a process.

    Args:
        record: with its unit and directories.
        pid: of the first process in it.
        resources: `linux.resources`; what systemd has no word for is left to the files.

    Raises:
        UnitExists: the name is in use by somebody else, whose unit it stays.
        CgroupError: systemd refuses it.
    """
    unit, slice_name = record["systemd"]["unit"], record["systemd"]["slice"]
    wanted: list[Property] = [
        ("Description", ("s", f"libcontainer container {record['id']}")),
        *_membership(unit, slice_name, pid),
        *((f"{what}Accounting", ("b", True)) for what in ("Memory", "CPU", "IO", "Tasks")),
        ("DefaultDependencies", ("b", False)),
        *properties.of_annotations(record["annotations"]),
    ]
    with Bus(record["systemd"]["bus"]) as bus:
        wanted += properties.of_resources(
            resources,
            unified=is_unified(record["cgroup"]),
            version=bus.version(),
            devices=True,
        )
        bus.start(unit, wanted)


def update(record: Record, resources: Mapping[str, Any]) -> None:
    """Change the unit's limits; what systemd has no word for is left to the files."""
    with Bus(record["systemd"]["bus"]) as bus:
        wanted = properties.of_resources(
            resources,
            unified=is_unified(record["cgroup"]),
            version=bus.version(),
            devices=False,
        )
        if wanted:
            bus.change(record["systemd"]["unit"], wanted)


def attach(record: Record, pid: int, below: str) -> None:
    """Move a process into the container's unit.

    Args:
        record: with its unit.
        pid: of the process.
        below: the group below the unit's own that takes it, "/" and its path; or "".

    Raises:
        CgroupError: systemd refuses it.
    """
    with Bus(record["systemd"]["bus"]) as bus:
        bus.attach(record["systemd"]["unit"], below, pid)


def stop(record: Record) -> None:
    """Let systemd forget the container's unit, and remove its cgroup.

    Raises:
        CgroupError: systemd cannot be reached, or does not end it.
    """
    if not is_whole(record):
        raise CgroupError(
            "the record's unit and control group are not of one container",
            "Look at `systemctl status`; this program leaves the unit alone.",
        )
    with Bus(record["systemd"]["bus"]) as bus:
        bus.stop(record["systemd"]["unit"])


def is_whole(record: Record) -> bool:
    """Tell whether a record's unit is the one its directories are called by.

    A record may be forged; stopping any unit of the host by it must not be possible.
    """
    unit = record["systemd"].get("unit", "")
    return (
        record["systemd"].get("bus") in DEFAULT_SLICES
        and unit.endswith((names.SLICE, names.SCOPE))
        and bool(record["cgroup"])
        and all(os.path.basename(path) == unit for path in record["cgroup"].values())
    )


def _membership(unit: str, slice_name: str, pid: int) -> list[Property]:
    """Return what says where the unit is and who is in it."""
    if unit.endswith(names.SLICE):
        # A slice is where its name says; it takes no process at its start.
        return [("Wants", ("as", [slice_name]))]
    return [
        ("Slice", ("s", slice_name)),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
    ]
