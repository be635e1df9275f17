"""Ending a container for good.

Lives here: killing what is left of it and removing every trace, whatever state it is in.
Must not live here: words for people. May be imported by every room above `runtime`.
"""

from __future__ import annotations

import errno
import os
import select
import time

from migrate import syscalls
from migrate.errors import (
    BrokenState,
    ContainerNotFound,
    HookError,
    KernelError,
    MigrateError,
    WrongStatus,
)
from migrate.runtime import cgroup, group, jsontext, state, statedir

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping
    from typing import Any

    from migrate.runtime.state import Record, Store
else:
    import _signal  # `signal` makes an enumeration of it, which takes 4 ms

SIGKILL = 9
DEATH_SECONDS = 10.0
STRAY_SECONDS = 1.0
STRAY_PAUSE_SECONDS = 0.01


def delete(store: Store, container_id: str, *, force: bool = False) -> list[str]:
    """Remove a container that has stopped or was never started; with force, any.

    Args:
        force: kill it if it runs, do without what is broken, and do not mind if there is
            no such container.

    Returns:
        What went wrong without stopping the removal: failed poststop hooks, and control
        groups that stay because somebody else is in them.

    Raises:
        ContainerNotFound: without force.
        WrongStatus: it runs or is paused, without force.
        BrokenState: its record cannot be read, without force.
        Locked: another command works on it and does not end.
    """
    if force:
        store.refuse_moving(container_id)
        _kill_before_lock(store, container_id)
    try:
        with store.lock(container_id, command="delete"):
            return _delete(store, container_id, force=force)
    except ContainerNotFound:
        if not force:
            raise
        store.remove_bare(container_id)
        return []


def clear_away(record: Record) -> None:
    """Kill a container's processes and remove its control groups."""
    _kill_first(record)
    group.leave(record)


def _delete(store: Store, container_id: str, *, force: bool) -> list[str]:
    """Do the work, the lock held."""
    try:
        record = store.load(container_id)
    except (BrokenState, ContainerNotFound):
        if not force:
            raise
        _clear_broken(store, container_id)
        store.remove(container_id)
        return []
    status = state.status(record)
    if not force and status not in ("stopped", "created", "creating"):
        raise WrongStatus(
            f"cannot delete container {container_id} that is not stopped: {status}",
            f"Stop it, or add --force: `migrate delete --force {container_id}`.",
        )
    config = _config(store, container_id)
    problems = []
    if status == "stopped" and _is_anothers(record["cgroup"], config):
        problems = _remove_empty(record["cgroup"])
    else:
        _kill_first(record)
        problems = group.leave(record)
    problems += _unmount(record)
    store.remove(container_id)
    return problems + _poststop(config, record)


def _unmount(record: Record) -> list[str]:
    """Unmount what was mounted for the container; return what could not be."""
    problems = []
    for path in record.get("mounted", ()):
        try:
            syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except KernelError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # it is gone already
                problems.append(f"{path} stays mounted: {os.strerror(error.errno).lower()}")
    return problems


def _is_anothers(paths: Mapping[str, str], config: bytes) -> bool:
    """Tell whether somebody has moved into the control groups of a stopped container.

    Where it had a pid namespace of its own, all of it has ended with its first process.
    What joined it only just now, as `exec` does, finds that out and ends.
    """
    deadline = time.monotonic() + STRAY_SECONDS
    while cgroup.procs(paths):
        if not _had_own_pids(config):
            return False
        if time.monotonic() >= deadline:
            return True
        time.sleep(STRAY_PAUSE_SECONDS)
    return False


def _remove_empty(paths: Mapping[str, str]) -> list[str]:
    """Remove the control groups that nobody is in; say of the others that they stay."""
    others = {key: path for key, path in paths.items() if cgroup.procs({key: path})}
    cgroup.destroy({key: path for key, path in paths.items() if key not in others})
    return [
        f"control group {path} stays: it holds somebody else's processes"
        for path in list(others.values())[:1]
    ]


def _had_own_pids(config: bytes) -> bool:
    """Tell whether a container was made with a pid namespace of its own."""
    from migrate.runtime.spec import decode

    try:
        namespaces = decode(config, "config.json").get("linux", {}).get("namespaces", [])
    except MigrateError:
        return False
    return any(each["type"] == "pid" and not each.get("path") for each in namespaces)


def _kill_before_lock(store: Store, container_id: str) -> None:
    """Kill the container first: a command that waits for it then lets the lock go."""
    try:
        record = store.load(container_id)
        if state.status(record) != "stopped":
            _kill_first(record)
            cgroup.kill(record["cgroup"])
    except MigrateError:
        return  # under the lock it is tried again, and reported


def _kill_first(record: Record) -> None:
    """Kill the first process and wait for its end: with it goes its pid namespace."""
    pidfd = state.open_pidfd(record)
    if pidfd is None:
        return
    try:
        _signal.pidfd_send_signal(pidfd, SIGKILL)
        if cgroup.frozen_state(record["cgroup"]) != "THAWED":
            cgroup.thaw(record["cgroup"])  # v1: a frozen process does not die
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(DEATH_SECONDS * 1000)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _clear_broken(store: Store, container_id: str) -> None:
    """Clear away what a container without a readable record left, as far as it is known."""
    for paths in (
        _recorded_groups(store, container_id),
        _configured_groups(store, container_id, statedir.CONFIG),
    ):
        if paths:
            try:
                cgroup.kill(paths)
                cgroup.destroy(paths)
            except (MigrateError, OSError):
                continue  # a guess from a broken file; forgetting the id comes first
    try:
        # A `create` that was killed before the cgroup was its own: who is in is another's.
        _remove_empty(_configured_groups(store, container_id, statedir.NEW_CONFIG))
    except (MigrateError, OSError):
        return


def _recorded_groups(store: Store, container_id: str) -> dict[str, str]:
    """Return the cgroups of a broken record, if that part of it is whole."""
    try:
        found = jsontext.loads(store.read(container_id, "state.json"))["cgroup"]
    except (OSError, ValueError, LookupError, TypeError, MigrateError):
        return {}
    known = cgroup.hierarchies()
    if not isinstance(found, dict):
        return {}
    return {
        key: path
        for key, path in found.items()
        if key in known
        and isinstance(path, str)
        and path.startswith(known[key].mount_point + "/")
        and ".." not in path.split("/")
    }


def _configured_groups(store: Store, container_id: str, name: str) -> dict[str, str]:
    """Return the cgroups the kept config.json asked for, if it can be read."""
    from migrate.runtime.spec import decode

    content = _config(store, container_id, name)
    if not content:
        return {}
    try:
        spec = decode(content, name)
        return cgroup.resolve(spec.get("linux", {}).get("cgroupsPath"), container_id)
    except MigrateError:
        return {}


def _config(store: Store, container_id: str, name: str = statedir.CONFIG) -> bytes:
    """Return the bytes of the kept config.json, b"" where there are none."""
    try:
        return store.read(container_id, name)
    except (OSError, MigrateError):
        return b""


def _poststop(config: bytes, record: Record) -> list[str]:
    """Run the poststop hooks, each whatever the others do, and return their failures.

    runtime.md, "Lifecycle": a failing one is worth a warning and stops nothing.
    """
    if b'"poststop"' not in config:
        return []
    from migrate.runtime import hooks
    from migrate.runtime.spec import decode

    try:
        spec = decode(config, "config.json")
    except MigrateError as error:
        return [f"poststop hooks left out: {error}"]
    wanted: Mapping[str, Any] = spec.get("hooks") or {}
    failures = []
    for hook in wanted.get("poststop") or ():
        spec["hooks"] = {"poststop": [hook]}
        try:
            hooks.run("poststop", spec, record, "stopped", 0)
        except HookError as error:
            failures.append(str(error))
    return failures
