"""What is there now, and what was not there before.

Lives here: snapshots of this process with everything it started, and of a host,
as sets of readable lines; their difference is what a test left behind.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.cgroups import Nest
    from tests.support.hosts import Host

Snapshot = dict[str, set[str]]

# What is made once and stays: CRIU's knowledge of the kernel, empty folders of state.
LASTING = (
    "/run/criu*",
    "/run/lock",
    "/run/migrate",
    "/run/mount",  # by umount(8), for its notes
    "/run/netns",
    "/run/runc",
    "/run/xtables.lock",
)


def _command(pid: int) -> str:
    """Return `pid command line`, or "" for a process that is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return ""
    return f"{pid} {words[:120].decode(errors='replace')}"


def _processes(nest: Nest, but: int) -> set[str]:
    return {_command(pid) for pid in nest.processes() - {but}} - {""}


def mounts(pid: int) -> set[str]:
    """Return the mounts a process sees, as `id mountpoint`."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return {
        f"{fields[0]} {fields[4]}"
        for fields in map(str.split, lines)
        # The first `ip netns add` makes it a mount, once; podman its storage, time and again.
        if fields[4] != "/run/netns" and not fields[4].endswith("/podman/graph/overlay")
    }


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue  # the one listdir itself used
    return found


def _threads() -> set[str]:
    return {
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith("pytest_timeout")
    }


def of_this_process(nest: Nest | None) -> Snapshot:
    """Return what this process holds, and what runs in its nest."""
    found = {"descriptor": _descriptors(), "thread": _threads()}
    if nest is not None:
        found["process"] = _processes(nest, os.getpid())
        found["mount"] = mounts(os.getpid())
        found["cgroup"] = nest.groups()
        found["link"] = set(os.listdir("/sys/class/net"))
    return found


def _files(host: Host, folders: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for folder in folders:
        top = str(host.folder(folder))
        for path, folders_in_it, files in os.walk(top):
            inside = folder + path.removeprefix(top)
            found.update(f"{inside}/{name}" for name in (*folders_in_it, *files))
    return {path for path in found if not any(fnmatch(path, lasting) for lasting in LASTING)}


def _listeners(host: Host) -> set[str]:
    found = set()
    for table, listening in (("tcp", "0A"), ("tcp6", "0A")):
        for line in Path(f"/proc/{host.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == listening:
                found.add(f"{table} port {int(fields[1].rsplit(':', 1)[1], 16)}")
    return found


def of_host(host: Host) -> Snapshot:
    """Return what is in a host: processes, mounts, groups, links, files, listeners, rules."""
    return {
        "process": _processes(host.nest, host.pid),
        "mount": mounts(host.pid),
        "cgroup": host.nest.groups(),
        "link": set(os.listdir(host.folder("/sys/class/net"))),
        "file": _files(host, ("/run", "/srv", "/var/lib/migrate")),
        "listener": _listeners(host),
        "firewall rule": set(host.run(["nft", "list", "ruleset"]).stdout.splitlines()),
    }


def new(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what is in `after` only, one readable line each."""
    return sorted(f"{kind}: {one}" for kind in after for one in after[kind] - before[kind])


def left(
    before: Snapshot,
    look: Callable[[], Snapshot],
    patience_seconds: float = 3,
) -> list[str]:
    """Return what `look` finds beyond `before`, giving what is on its way out some time."""
    deadline = time.monotonic() + patience_seconds
    found = new(before, look())
    if found:
        gc.collect()  # a descriptor in a cycle of garbage is closed by now; too slow to do always
    while (found := found and new(before, look())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
