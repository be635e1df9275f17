"""A container's control group over its life: planned, entered, limited, left.

Lives here: the order of these, by either driver: directories of the file systems, or a
unit of systemd's. Must not live here: how each is done (`runtime.cgroup`,
`runtime.systemd`). May be imported by every room above `runtime`.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError, MigrateError
from migrate.runtime import cgroup, idmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

    from migrate.runtime.spec.model import Linux, Mount, Spec
    from migrate.runtime.state import Record, Store


def plan(record: Record, linux: Linux, *, systemd: bool) -> None:
    """Write into a record where the container's cgroup is to be; nothing is made.

    Raises:
        CgroupError: `cgroupsPath` names no such place.
    """
    path = linux.get("cgroupsPath")
    if systemd:
        from migrate.runtime.systemd import driver

        record["cgroup"], record["systemd"] = driver.place(path, record["id"])
    else:
        record["cgroup"] = cgroup.resolve(path, record["id"])


def enter(store: Store, record: Record, linux: Linux, pid: int) -> None:
    """Make the cgroup of a new container, save its record, and move a process in.

    The record is saved before anybody is in the cgroup, so that what a killed command
    leaves can be cleared away by it; and not before the cgroup is the container's, so
    that nobody else's can be.

    Args:
        store: where the record is kept.
        record: as `plan` left it; of a user who may have no cgroup it has none afterwards.
        linux: of the configuration.
        pid: the container's first process.

    Raises:
        CgroupError: somebody else is in it, or a limit cannot be set.
    """
    resources: Mapping[str, Any] | None = linux.get("resources")
    if resources is not None and _leaves_room_for_one(resources):
        # Stage 1 and what it forks are two for a moment: see `limit_last`.
        resources = {name: value for name, value in resources.items() if name != "pids"}
    if "systemd" in record:
        _enter_unit(store, record, resources or {}, pid)
        return
    paths, record["cgroup"] = record["cgroup"], {}
    try:
        held = cgroup.claim(paths)
    except CgroupError:
        if _must_have_one(linux):
            raise
        store.save(record)  # as runc: without limits, a user's container stays in theirs
        return
    try:
        record["cgroup"] = paths
        store.save(record)
        try:
            cgroup.limit_new(paths, resources)
        except CgroupError:
            if _must_have_one(linux):
                raise
            cgroup.destroy(paths)
            record["cgroup"] = {}
            store.save(record)
        cgroup.add(record["cgroup"], pid)
    finally:
        held.close()


class Prepared:
    """The cgroup of a container that others will move into, for the length of a `with`.

    A scope of systemd's is gone as soon as it is empty: a process that only waits keeps it
    until the block ends. The caller has no threads, and has saved the record.

    Args:
        record: as `plan` left it.
        resources: what binds whoever moves in; `update` sets the others later.

    Raises:
        CgroupError: somebody else is in it, or a limit cannot be set.
    """

    def __init__(self, record: Record, resources: Mapping[str, Any]) -> None:
        self._pid = 0
        self._hold = -1
        if "systemd" not in record:
            cgroup.create(record["cgroup"], resources)
            return
        self._wait_apart()
        try:
            _make_unit(record, resources, self._pid)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the waiting process end."""
        if self._pid:
            os.close(self._hold)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _wait_apart(self) -> None:
        """Start a process that ends with the pipe's other end, so with ours at the latest."""
        end, self._hold = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(self._hold)
                os.read(end, 1)
            finally:
                os._exit(0)
        os.close(end)
        self._pid = pid


def delegate(record: Record, spec: Spec) -> None:
    """Give a cgroup2 group to the user whose container may write to it.

    As config-linux.md has it: where the container has a new cgroup namespace, and the
    tree mounted writable. Without a user namespace of known maps the user is the host's.

    Raises:
        CgroupError: it cannot be given away.
    """
    linux: Linux = spec.get("linux", {})
    kinds = {item["type"]: item.get("path", "") for item in linux.get("namespaces", [])}
    directory = record["cgroup"].get("")
    if (
        directory is None
        or len(record["cgroup"]) > 1
        or kinds.get("cgroup") != ""
        or kinds.get("user")
        or not any(_is_writable_tree(mount) for mount in spec.get("mounts", []))
    ):
        return
    uid = _host_uid(spec["process"].get("user", {}).get("uid", 0), linux)
    if uid is not None and os.geteuid() == 0 and uid != 0:
        from migrate.runtime.cgroup import delegation

        delegation.give(directory, uid)


def _is_writable_tree(mount: Mount) -> bool:
    return mount.get("type") in ("cgroup", "cgroup2") and "ro" not in mount.get("options", [])


def _host_uid(uid: int, linux: Linux) -> int | None:
    """Return who a user of the container is on the host, None if nobody."""
    mappings = linux.get("uidMappings")
    if not mappings:
        return uid
    for item in mappings:
        if 0 <= uid - item["containerID"] < item["size"]:
            return item["hostID"] + uid - item["containerID"]
    return None


def limit_last(record: Record, linux: Linux) -> None:
    """Set what `enter` could not yet: only one process is in there now."""
    resources: Mapping[str, Any] = linux.get("resources") or {}
    if _leaves_room_for_one(resources):
        update(record, {"pids": resources["pids"]})


def update(record: Record, resources: Mapping[str, Any]) -> None:
    """Set other limits.

    Raises:
        CgroupError: names the file, the value and the reason.
    """
    if "systemd" in record:
        from migrate.runtime.systemd import driver

        driver.update(record, resources)
    cgroup.update(record["cgroup"], resources)


def leave(record: Record) -> list[str]:
    """Kill who is in a container's cgroup, and remove it.

    Returns:
        What systemd could not do; the cgroup itself is gone all the same.

    Raises:
        CgroupError: somebody does not die, or a directory stays.
    """
    cgroup.kill(record["cgroup"])
    problems = forget_unit(record)
    cgroup.destroy(record["cgroup"])
    if "rdt" in record:
        from migrate.runtime import resctrl

        problems += resctrl.leave(record)
    return problems


def forget_unit(record: Record) -> list[str]:
    """Let systemd forget a unit that nobody is in; return what it could not do."""
    if "systemd" not in record:
        return []
    from migrate.runtime.systemd import driver

    try:
        driver.stop(record)
    except MigrateError as error:
        return [str(error)]
    return []


def _enter_unit(store: Store, record: Record, resources: Mapping[str, Any], pid: int) -> None:
    """Make the unit once its record is saved."""
    paths, unit = record["cgroup"], record.pop("systemd")
    record["cgroup"] = {}  # another one's still, perhaps: not to be killed for our failure
    cgroup.refuse_occupied(paths)
    record["cgroup"], record["systemd"] = paths, unit
    store.save(record)
    _make_unit(record, resources, pid)


def _make_unit(record: Record, resources: Mapping[str, Any], pid: int) -> None:
    """Have systemd make the cgroup around a process, then set what it has no word for."""
    from migrate.runtime.systemd import driver

    try:
        driver.start(record, pid, resources)
    except driver.UnitExists:
        record["cgroup"] = {}
        del record["systemd"]
        raise
    # Trees that systemd does not manage (the freezer, cpuset) are left to us.
    cgroup.make(record["cgroup"], (pid,))
    cgroup.limit_new(record["cgroup"], resources)
    cgroup.add(record["cgroup"], pid)


def _must_have_one(linux: Linux) -> bool:
    """Tell whether a container without a cgroup of its own is less than was asked for.

    Rules of devices do not count for who has no privileges on the host, root of a user
    namespace included: what they close is closed by the owners of the devices, and new
    ones cannot be made. runc goes on without them too.
    """
    if os.geteuid() == 0 and not idmaps.in_user_namespace():
        return True
    limits: Mapping[str, Any] = linux.get("resources") or {}
    return bool(linux.get("cgroupsPath")) or any(
        value for name, value in limits.items() if name != "devices"
    )


def _leaves_room_for_one(resources: Mapping[str, Any]) -> bool:
    """Tell whether only one process may be in the cgroup."""
    return bool((resources.get("pids") or {}).get("limit") == 1)
