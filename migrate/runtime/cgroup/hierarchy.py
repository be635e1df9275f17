"""Which control-group trees this process sees, and a container's place in them.

Lives here: reading /proc/self/cgroup and /proc/self/mountinfo, see cgroups(7) and
cgroup_namespaces(7), and deciding paths. Must not live here: anything that changes a
cgroup. Imported through `migrate.runtime.cgroup`.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFERRED_MOUNT = "/sys/fs/cgroup"


class Hierarchy:
    """One tree of control groups, as this process sees it.

    Attributes:
        key: v1 controllers joined by commas, `name=…`, or "" for the cgroup2 tree.
        mount_point: where it is mounted.
        own: directory of the cgroup this process is in; the mount point where that is
            outside of what is mounted.
    """

    __slots__ = ("key", "mount_point", "own")

    def __init__(self, key: str, mount_point: str, own: str) -> None:
        self.key = key
        self.mount_point = mount_point
        self.own = own

    def __repr__(self) -> str:
        return f"Hierarchy({self.key!r}, {self.mount_point!r}, own={self.own!r})"


def hierarchies() -> dict[str, Hierarchy]:
    """Return the mounted trees, by key.

    Named v1 trees other than systemd's are left out: they belong to whoever made them.
    """
    mounts = _mounts()
    found = {}
    for line in files.read("/proc/self/cgroup").split("\n"):
        _, key, own = line.split(":", 2)
        if key.startswith("name=") and key != "name=systemd":
            continue
        place = _place(mounts.get(_identity(key), []), own)
        if place is not None:
            found[key] = Hierarchy(key, *place)
    return found


def is_unified(paths: Mapping[str, object]) -> bool:
    """Tell whether the cgroup2 tree is the only one (a "v2 host")."""
    return set(paths) == {""}


def directory_of(paths: Mapping[str, str], controller: str) -> str | None:
    """Return a container's directory in the v1 tree of a controller, if there is one."""
    for key, directory in paths.items():
        if controller in key.split(","):
            return directory
    return None


def resolve(cgroups_path: str | None, container_id: str) -> dict[str, str]:
    """Return the directory of a container in every tree; nothing is made.

    Args:
        cgroups_path: `linux.cgroupsPath`: absolute means from the trees' mount points,
            relative from the caller's own cgroup; None or "" stands for the id.

    Raises:
        CgroupError: the path leaves its tree, is the tree's root, or no tree is mounted.
    """
    inner = cgroups_path or container_id
    parts = inner.split("/")
    if ".." in parts or "\0" in inner or "\n" in inner:
        raise CgroupError(f'cgroupsPath "{inner}" leaves its tree', 'Write a path without "..".')
    relative = "/".join(part for part in parts if part not in ("", "."))
    if not relative:
        raise CgroupError(
            f'cgroupsPath "{inner}" is the root of its tree',
            "Name a control group of the container's own.",
        )
    trees = hierarchies()
    if not trees:
        raise CgroupError(
            "no control group tree is mounted", f"Mount cgroup2 on {PREFERRED_MOUNT}."
        )
    return {
        key: f"{_start(tree, trees, inner).rstrip('/')}/{relative}" for key, tree in trees.items()
    }


def _start(tree: Hierarchy, trees: Mapping[str, Hierarchy], inner: str) -> str:
    """Return the directory a container's path starts from."""
    if inner.startswith("/"):
        return tree.mount_point
    if not is_unified(trees) or tree.own == tree.mount_point:
        return tree.own
    # v2 has no processes in inner nodes: the caller's own group holds the caller, so
    # the container's becomes its sibling. runc decides the same way.
    return os.path.dirname(tree.own)


def _identity(key: str) -> str:
    """Return what is the same in /proc/self/cgroup and in mount options."""
    return ",".join(sorted(key.split(",")))


def _mounts() -> dict[str, list[tuple[str, str]]]:
    """Return (root, mount point) of each visible cgroup mount, by tree."""
    found: dict[str, list[tuple[str, str]]] = {}
    controllers = _controllers()
    for line in files.read("/proc/self/mountinfo").split("\n"):
        before, _, after = line.partition(" - ")
        kind = after.partition(" ")[0]
        if kind not in ("cgroup", "cgroup2"):
            continue
        fields = before.split(" ")
        device, root, mount_point = fields[2], _unescaped(fields[3]), _unescaped(fields[4])
        if not _is_visible(mount_point, device):
            continue
        identity = ""
        if kind == "cgroup":
            options = after.split(" ")[2].split(",")
            named = [option for option in options if option.startswith("name=")]
            known = [option for option in options if option in controllers]
            identity = ",".join(sorted(known or named))
        found.setdefault(identity, []).append((root, mount_point))
    return found


def _controllers() -> frozenset[str]:
    """Return the names of the controllers this kernel has."""
    lines = files.read("/proc/cgroups").split("\n")[1:]
    return frozenset(line.split("\t", 1)[0] for line in lines)


def _is_visible(mount_point: str, device: str) -> bool:
    """Tell whether a mount is what its mount point shows, and not below another one."""
    try:
        there = os.stat(mount_point).st_dev
    except OSError:
        return False
    return f"{os.major(there)}:{os.minor(there)}" == device


def _place(mounts: list[tuple[str, str]], own: str) -> tuple[str, str] | None:
    """Return mount point and own directory in the best mount of a tree."""
    best = None
    # The last of several mounts on one point is the one on top.
    for root, mount_point in reversed(mounts):
        if root == "/":
            place = (mount_point, mount_point + own.rstrip("/"))
        elif own == root or own.startswith(root + "/"):
            place = (mount_point, mount_point + own[len(root) :])
        else:
            place = (mount_point, mount_point)
        # /proc/self/cgroup says "/.." where the own cgroup is outside the namespace.
        if "/.." in own:
            place = (mount_point, mount_point)
        if mount_point == PREFERRED_MOUNT or mount_point.startswith(PREFERRED_MOUNT + "/"):
            return place
        best = best or place
    return best


def _unescaped(text: str) -> str:
    """Return a mountinfo field without its octal escapes, see proc(5)."""
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
