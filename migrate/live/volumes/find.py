"""Which volumes a container has.

Lives here: looking at its mounts on the source, and putting beside them what the user
wants. Must not live here: what becomes of them (`decide`). `live.volumes` only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from migrate.checkpoint import procfs
from migrate.checkpoint.inspect import binds
from migrate.errors import UsageError
from migrate.live.needs import tree_size
from migrate.live.volumes.mapping import Choice
from migrate.live.volumes.volume import ABSENT, FILE, FOLDER, OTHER, Volume
from migrate.runtime import cgroup

if TYPE_CHECKING:
    from migrate.live.subject import Subject

# File systems whose content the kernel makes up, on either host.
_OF_KERNEL = frozenset(
    {
        *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "debugfs", "tracefs"),
        *("securityfs", "bpf", "configfs", "mqueue", "hugetlbfs", "efivarfs", "pstore"),
        *("binfmt_misc", "fusectl", "nsfs", "resctrl", "selinuxfs", "rpc_pipefs"),
    }
)
# File systems that several machines may have mounted.
_OF_OTHERS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "ocfs2", "gfs2", "lustre"),
        *("beegfs", "glusterfs", "afs", "orangefs"),
    }
)


class Bundles:
    """Where the container's own folders are, here and there.

    Args:
        here: the bundle.
        rootfs: the root file system here.
        there: the bundle on the destination.
    """

    def __init__(self, here: str, rootfs: str, there: str) -> None:
        self.here, self.there = os.path.normpath(here), os.path.normpath(there)
        self._pairs = [
            (os.path.normpath(rootfs), f"{self.there}/rootfs"),
            (self.here, self.there),
        ]

    def is_in_rootfs(self, path: str) -> bool:
        """Tell whether a path here lies in the root file system."""
        return is_within(path, self._pairs[0][0])

    def is_in_bundle(self, path: str) -> bool:
        """Tell whether a path here lies in the bundle."""
        return path != self.here and is_within(path, self.here)

    def counterpart(self, path: str) -> str:
        """Return what a path is called on the destination: the bundle's go with it."""
        for here, there in self._pairs:
            if is_within(path, here):
                return there + path[len(here) :]
        return path


def is_within(path: str, folder: str) -> bool:
    """Tell whether a path is a folder's, or lies in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def find(subject: Subject, wanted: Mapping[str, Choice], bundles: Bundles) -> list[Volume]:
    """Return the container's volumes, in the order of their paths.

    Args:
        wanted: by path on this host, or in the container.

    Raises:
        UsageError: it has no such volume.
    """
    pid = subject.facts.pid
    points: dict[str, list[str]] = {}
    for mount in subject.facts.mounts:
        source = os.path.normpath(mount.source)
        if mount.kind == "bind" and not bundles.is_in_rootfs(source):
            points.setdefault(source, []).append(mount.destination)
    choices: dict[str, Choice] = {}
    for path, choice in wanted.items():
        named = [each for each in points if path == each or path in points[each]]
        if not named:
            raise UsageError(
                f"container has no volume {path}",
                f"Name one of its bind mounts: {', '.join(sorted(points)) or 'it has none'}.",
            )
        choices.update(dict.fromkeys(named, choice))
    configured = {*map(os.path.normpath, binds(subject.spec, bundles.here).values())}
    lines = {line.point: line for line in procfs.mounts(pid)}
    mounted_here = {line.point for line in procfs.mounts("self")}
    found = []
    for source in sorted(points):
        mounts = [lines[point] for point in points[source] if point in lines]
        choice = choices.get(source, Choice())
        around = "" if source in configured else _around(source, configured)
        if around:
            place = choices.get(around, Choice()).path or bundles.counterpart(around)
            choice = replace(choice, path=place + source[len(around) :])
        volume = _volume(
            source,
            tuple(points[source]),
            choice,
            around=around,
            mounts=mounts,
            pid=pid,
            bundles=bundles,
            is_mount=source in mounted_here,
        )
        if choice.policy == "skip":
            pids = cgroup.procs(subject.record["cgroup"])
            volume = replace(volume, open_inside=_open_inside(pids, volume.points))
        found.append(volume)
    return found


def _around(source: str, configured: Iterable[str]) -> str:
    """Return the bind mount of config.json that a mount came along with, or ""."""
    return max((each for each in configured if is_within(source, each)), key=len, default="")


def _volume(
    source: str,
    points: tuple[str, ...],
    choice: Choice,
    *,
    around: str,
    mounts: list[procfs.MountLine],
    pid: int,
    bundles: Bundles,
    is_mount: bool,
) -> Volume:
    kinds = {line.fstype for line in mounts}
    kind, device = kind_of(source)
    size, files = _size(source, kind)
    return Volume(
        source=source,
        points=points,
        there=os.path.normpath(choice.path or bundles.counterpart(source)),
        kind=kind,
        is_writable=not all(_is_read_only(line) for line in mounts),
        asked=choice.policy,
        is_in_bundle=bundles.is_in_bundle(source) and not choice.path,
        is_of_kernel=bool(kinds & _OF_KERNEL),
        is_of_others=any(each in _OF_OTHERS or each.startswith("fuse") for each in kinds),
        is_replaced=any(_is_another(pid, point, source) for point in points),
        is_mount=is_mount,
        around=around,
        device=device,
        size_bytes=size,
        files=files,
    )


def kind_of(path: str) -> tuple[str, str]:
    """Return what kind of thing a path is, and of a device node which."""
    try:
        status = os.stat(path)
    except OSError:
        return ABSENT, ""
    if stat.S_ISDIR(status.st_mode):
        return FOLDER, ""
    if stat.S_ISREG(status.st_mode):
        return FILE, ""
    letter = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(status.st_mode))
    if letter is None:
        return OTHER, ""
    return OTHER, f"{letter} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _size(path: str, kind: str) -> tuple[int, int]:
    if kind == FOLDER:
        return tree_size(path)
    return (os.stat(path).st_blocks * 512, 1) if kind == FILE else (0, 0)


def _is_read_only(line: procfs.MountLine) -> bool:
    return "ro" in line.options or "ro" in line.super_options


def _is_another(pid: int, point: str, source: str) -> bool:
    """Tell whether what is mounted is not what its path means by now."""
    try:
        return not os.path.samefile(f"/proc/{pid}/root{point}", source)
    except OSError:
        return True


def _open_inside(pids: Iterable[int], points: tuple[str, ...]) -> str:
    """Return which process has something of a volume open, and what."""
    for pid in pids:
        for path in _used(pid):
            if any(is_within(path, point) for point in points):
                return f"process {pid} has {path} open"
    return ""


def _used(pid: int) -> Iterator[str]:
    """Yield the paths of a process's descriptors, mappings and working directory."""
    with contextlib.suppress(OSError):
        yield os.readlink(f"/proc/{pid}/cwd")
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{name}")
    with contextlib.suppress(OSError):
        for line in procfs.read(f"/proc/{pid}/maps").splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6:
                yield fields[5]
