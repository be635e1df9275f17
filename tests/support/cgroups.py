"""A control group in every hierarchy of this machine, as one thing.

Lives here: making such a nest, putting processes in, counting what is inside,
and taking it down whatever state its tasks are in. A nest is what one host, or
one run of the tests, lives in. Needs root; v1, v2 and hybrid layouts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import kernel

CGROUP_TOP = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy.

    Attributes:
        fstype: `cgroup` or `cgroup2`.
        options: what to give mount(8) for it: `memory`, `none,name=systemd`.
        mountpoint: where it is mounted here.
        root: which of its groups that mount shows at its top.
        own: the group of this process, absolute in the mount's terms.
    """

    fstype: str
    options: str
    mountpoint: str
    root: str
    own: str

    @property
    def is_v2(self) -> bool:
        """Whether it is the unified hierarchy."""
        return self.fstype == "cgroup2"


def _own_groups() -> dict[str, str]:
    """Return controllers (or "" for v2) to the path of this process's group."""
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path
    return groups


def hierarchies() -> list[Hierarchy]:
    """Return every cgroup hierarchy mounted here, once each."""
    own = _own_groups()
    found: dict[str, Hierarchy] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        fstype, _, super_options = fields[fields.index("-") + 1 :][:3]
        if fstype not in {"cgroup", "cgroup2"}:
            continue
        options = [
            option
            for option in super_options.split(",")
            if option not in {"rw", "ro", "xattr", "clone_children", "nsdelegate"}
            and not option.startswith(("release_agent=", "memory_"))
        ]
        key = "" if fstype == "cgroup2" else ",".join(options)
        if fstype == "cgroup" and options[0].startswith("name="):
            options.insert(0, "none")
        if key in own:
            text = "" if fstype == "cgroup2" else ",".join(options)
            found[key] = Hierarchy(fstype, text, fields[4], fields[3], own[key])
    return list(found.values())


def mount_hierarchies(mounts: Iterable[tuple[str, str, str]]) -> None:
    """Replace /sys by a fresh sysfs with the hierarchies (mountpoint, fstype, options) on it.

    In a cgroup and a network namespace of its own the caller sees only its own
    groups and links there.
    """
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.umount2("/sys", kernel.MNT_DETACH)
    kernel.mount("sysfs", "/sys", "sysfs", quiet)
    ordered = sorted(mounts)
    if all(mountpoint != CGROUP_TOP for mountpoint, _, _ in ordered):
        kernel.mount("tmpfs", CGROUP_TOP, "tmpfs", quiet, "mode=755")
    for mountpoint, fstype, options in ordered:
        os.makedirs(mountpoint, exist_ok=True)
        kernel.mount("cgroup", mountpoint, fstype, quiet, options or None)


def _inherit_cpuset(group: Path) -> None:
    """Give a v1 cpuset group its parent's processors: without, nobody can join it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())


def _groups_below(top: Path) -> Iterator[Path]:
    """Yield `top` and every group below it, children before parents."""
    for folder, _, _ in os.walk(top, topdown=False):
        yield Path(folder)


class Nest:
    """A group of one name in every hierarchy.

    On v1 it is below the group this process is in, so that limits set from
    outside still hold. On v2 it is at the top, because controllers can only be
    handed down where no process sits, and processes sit in its leaf `init`.
    """

    LEAF = "init"

    def __init__(self, name: str) -> None:
        self.name = f"migrate-{os.getpid()}-{name}"
        self.tops: dict[Hierarchy, Path] = {}

    def create(self) -> None:
        """Make the groups; those of programs that were killed are removed first."""
        for hierarchy in hierarchies():
            base = Path(hierarchy.mountpoint)
            if not hierarchy.is_v2:
                base /= os.path.relpath(hierarchy.own, hierarchy.root)
            _sweep(base)
            top = base / self.name
            top.mkdir()
            self.tops[hierarchy] = top
            if hierarchy.is_v2:
                (top / self.LEAF).mkdir(exist_ok=True)
            else:
                _inherit_cpuset(top)

    def join(self, pid: int) -> None:
        """Put a process into the tops, where a cgroup namespace takes its root."""
        for top in self.tops.values():
            (top / "cgroup.procs").write_text(str(pid))

    def leave(self, pid: int) -> None:
        """Put a process back into the groups this nest was made below."""
        for hierarchy, top in self.tops.items():
            home = top.parent
            if hierarchy.is_v2:
                home /= os.path.relpath(hierarchy.own, hierarchy.root)
            (home / "cgroup.procs").write_text(str(pid))

    def hold(self) -> list[int]:
        """Keep the groups reachable after their mounts are gone; returns what to close."""
        held = []
        for hierarchy, top in self.tops.items():
            held.append(os.open(top.parent, os.O_PATH | os.O_DIRECTORY))
            self.tops[hierarchy] = Path(f"/proc/self/fd/{held[-1]}") / top.name
        return held

    def settle(self) -> None:
        """Clear the v2 top of processes and hand its controllers down."""
        for hierarchy, top in self.tops.items():
            if not hierarchy.is_v2:
                continue
            for pid in (top / "cgroup.procs").read_text().split():
                (top / self.LEAF / "cgroup.procs").write_text(pid)
            for controller in (top / "cgroup.controllers").read_text().split():
                (top / "cgroup.subtree_control").write_text(f"+{controller}")

    def mounts(self, *, only_v2: bool = False) -> list[tuple[str, str, str]]:
        """Return what `mount_hierarchies` needs, for this machine's layout or for v2 alone."""
        if only_v2:
            return [(CGROUP_TOP, h.fstype, h.options) for h in self.tops if h.is_v2]
        return [(h.mountpoint, h.fstype, h.options) for h in self.tops]

    def groups(self) -> set[str]:
        """Return every group inside, as `options:/path`."""
        return {
            f"{hierarchy.options or 'unified'}:/{group.relative_to(top)}"
            for hierarchy, top in self.tops.items()
            for group in _groups_below(top)
            if group not in {top, top / self.LEAF}
        }

    def processes(self) -> set[int]:
        """Return the pids inside; zombies are not among them."""
        found: set[int] = set()
        for top in self.tops.values():
            for group in _groups_below(top):
                try:
                    found.update(map(int, (group / "cgroup.procs").read_text().split()))
                except OSError:
                    continue  # removed meanwhile
        return found - {0}

    def thaw(self) -> None:
        """Let frozen tasks run: on v1 a frozen task does not even die."""
        for top in self.tops.values():
            for group in _groups_below(top):
                for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                    try:
                        (group / name).write_text(word)
                    except OSError:
                        continue  # another hierarchy, the root group, or removed meanwhile

    def kill(self, *, keep: frozenset[int] = frozenset(), timeout_seconds: float = 10) -> None:
        """Kill every process inside but `keep`, and wait until they are gone."""
        deadline = time.monotonic() + timeout_seconds
        while left := self.processes() - keep:
            for pid in left:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            self.thaw()
            if time.monotonic() > deadline:
                message = f"processes {sorted(left)} do not die"
                raise TimeoutError(message)
            time.sleep(0.002)

    def prune(self, keep: frozenset[str] = frozenset(), timeout_seconds: float = 5) -> None:
        """Remove every empty group inside whose name is not in `keep`."""
        deadline = time.monotonic() + timeout_seconds
        for hierarchy, top in self.tops.items():
            for group in _groups_below(top):
                label = f"{hierarchy.options or 'unified'}:/{group.relative_to(top)}"
                if group not in {top, top / self.LEAF} and label not in keep:
                    _remove(group, deadline)

    def remove(self, timeout_seconds: float = 5) -> None:
        """Remove the groups; all must be empty of processes."""
        deadline = time.monotonic() + timeout_seconds
        for top in self.tops.values():
            for group in _groups_below(top):
                _remove(group, deadline)
        self.tops.clear()


def _sweep(base: Path) -> None:
    """Remove nests whose maker is gone, if nobody is in them."""
    for top in base.glob("migrate-*-*"):
        maker = top.name.split("-")[1]
        if maker.isdigit() and not os.path.exists(f"/proc/{maker}"):
            for group in _groups_below(top):
                with contextlib.suppress(OSError):
                    group.rmdir()


def _remove(group: Path, deadline: float) -> None:
    """Remove one group; a task that just died may hold it for some milliseconds."""
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return
