"""A container's needs held against what a host has.

Lives here: the checks of needs and host, as pure functions. Must not live here:
finding out either (`needs`, `host_facts`), two hosts compared (`comparison`).
`live` only.
"""

from __future__ import annotations

from collections.abc import Iterator

from migrate.events import Finding
from migrate.live.comparison import Check, finding, named
from migrate.live.host_facts import CAP_SYS_RESOURCE, HostFacts
from migrate.live.needs import Needs

# What images need on the destination beside the memory in them.
_IMAGE_OVERHEAD_BYTES = 64 << 20
_DISK_OVERHEAD_BYTES = 16 << 20
# What CRIU and this program have open beside the container's own files.
_OWN_FILES = 256


def memory_needed(needs: Needs) -> int:
    """Return the bytes of memory a container takes on its destination, at least."""
    return needs.memory_bytes + _IMAGE_OVERHEAD_BYTES


def disk_needed(needs: Needs) -> int:
    """Return the bytes of disk a container's files take on its destination."""
    return needs.rootfs_bytes + _DISK_OVERHEAD_BYTES


def _control_groups(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """The trees that the container sees, and those that hold its limits, are there."""
    seen = sorted(set(needs.cgroup_mounts) - set(there.cgroups))
    if seen:
        yield finding(
            "cgroups",
            "refuse",
            f"the container sees the control groups {named(seen)}, which {there.name} "
            "has not mounted",
            "Mount them there, or choose a host with the same layout of control groups.",
        )
    missing = sorted(set(needs.controllers) - set(there.controllers))
    if missing:
        yield finding(
            "cgroups",
            "refuse",
            f"the container has limits by {', '.join(missing)}, for which {there.name} has no "
            "controller",
            "Mount the controller there, or take the limit out of $.linux.resources.",
        )


def _processors(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """The processors and memory nodes that the container is held to are there."""
    table = (
        ("processors", "cpus", needs.cpus, there.cpus),
        ("memory nodes", "mems", needs.memory_nodes, there.memory_nodes),
    )
    for what, setting, wanted, has in table:
        missing = sorted(set(wanted) - set(has))
        if missing:
            yield finding(
                "cgroups",
                "refuse",
                f"the container is held to {what} {_listed(wanted)}, and {there.name} has no "
                f"{_listed(missing)}",
                f"Choose others first, by `migrate update --cpuset-{setting}` and in "
                f"$.linux.resources.cpu.{setting}.",
            )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _namespaces(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """The kernel there makes the namespaces that the container has."""
    for kind in sorted(set(needs.namespaces) - set(there.namespaces)):
        yield finding(
            "namespaces",
            "refuse",
            f"the container has a {kind} namespace, and {there.name} makes none",
            f"Look at /proc/sys/user/max_{kind}_namespaces there, or choose a host whose kernel "
            "has them.",
        )


def _filesystems(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """The kernel there has the file systems that are mounted anew."""
    missing = sorted(set(needs.filesystems) - set(there.filesystems))
    if missing:
        yield finding(
            "mounts",
            "warn",
            f"the kernel of {there.name} has not loaded {', '.join(missing)}, which the container "
            "has mounted",
            f"Run `modprobe {missing[0]}` there first.",
        )


def _devices(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Device nodes lead to something."""
    for path, number in sorted(needs.devices.items()):
        if number not in there.drivers:
            yield finding(
                "devices",
                "warn",
                f"{path} of the container (device {number}) has no driver on {there.name}",
                "Load the driver there first, or let the container do without.",
            )


def _filters(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """The kernel there knows every action of the system call filter."""
    missing = sorted(set(needs.seccomp) - set(there.seccomp))
    if missing:
        yield finding(
            "seccomp",
            "refuse",
            f"the container's system call filter uses {', '.join(missing)}, which the kernel of "
            f"{there.name} does not know",
            "Choose a host with a newer kernel.",
        )


def _labels(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Who confines the container here does so there."""
    profile = needs.apparmor_profile
    if profile and "apparmor" not in there.lsm:
        yield finding(
            "lsm",
            "refuse",
            f"the container is confined by the AppArmor profile {profile}, and {there.name} has "
            "no AppArmor",
            "Choose a host that has it, or take $.process.apparmorProfile out.",
        )
    elif profile and profile not in ("unconfined", *there.apparmor_profiles):
        yield finding(
            "lsm",
            "refuse",
            f"the AppArmor profile {profile} is not loaded on {there.name}",
            "Load it there by apparmor_parser(8).",
        )
    if needs.selinux_label and "selinux" not in there.lsm:
        yield finding(
            "lsm",
            "refuse",
            f"the container is labelled {needs.selinux_label}, and {there.name} has no SELinux",
            "Choose a host that has it, or take $.process.selinuxLabel out.",
        )


def _memory(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Memory and images fit."""
    images = memory_needed(needs)
    # Large private memory leaves the images as it is restored; the rest is there twice.
    if images + needs.memory_bytes > there.memory_bytes:
        yield finding(
            "room",
            "refuse" if images > there.memory_bytes else "warn",
            f"{there.name} has {size_text(there.memory_bytes)} of memory available, the "
            f"container takes {size_text(images)}, and what of it is shared twice as much",
            "Stop something there, or choose a host with more memory.",
        )
    for page_kilobytes, size in sorted(needs.huge_bytes.items()):
        pages = -(-size // (int(page_kilobytes) << 10)) if page_kilobytes.isdigit() else 0
        free = there.huge_pages.get(page_kilobytes, 0)
        if pages > free:
            yield finding(
                "room",
                "refuse",
                f"the container has {pages} huge pages of {page_kilobytes} kB, {there.name} has "
                f"{free} free",
                "Reserve more there: "
                f"/sys/kernel/mm/hugepages/hugepages-{page_kilobytes}kB/nr_hugepages.",
            )


def _disk(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Files fit."""
    disk = disk_needed(needs)
    if disk > there.disk_bytes:
        yield finding(
            "room",
            "refuse",
            f"{there.name} has {size_text(there.disk_bytes)} of disk for the bundle, "
            f"its files take {size_text(disk)}",
            "Free space there, or give another folder with --bundle.",
        )
    if 0 <= there.disk_files < needs.rootfs_files:
        yield finding(
            "room",
            "refuse",
            f"{there.name} can make {there.disk_files} more files where the bundle goes, "
            f"the container has {needs.rootfs_files}",
            "Remove files there, or give another folder with --bundle.",
        )


def size_text(size: int) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"


def _limits(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Limits that the container has can be set there, and its numbers are within them."""
    for name, value in needs.limits.items():
        highest = there.limits.get(name, 0)
        if value > highest and not there.can(CAP_SYS_RESOURCE):
            yield finding(
                "limits",
                "refuse",
                f"the container's limit {name} is {_limit_text(value)}, {there.name} cannot go "
                f"above {_limit_text(highest)} without CAP_SYS_RESOURCE",
                f"Raise the hard limit {name} for logins there, or lower the container's.",
            )
    table = (
        ("limit nofile is", needs.limits.get("nofile", 0), "fs.nr_open", there.open_files_most),
        ("process numbers go up to", needs.highest_pid, "kernel.pid_max", there.pid_max - 1),
    )
    for what, value, setting, highest in table:
        if value > highest:
            yield finding(
                "limits",
                "refuse",
                f"the container's {what} {_limit_text(value)}, {setting} on {there.name} allows "
                f"{highest}",
                f"Raise {setting} there by sysctl(8).",
            )


def _descriptors(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """What the container has open can be opened there."""
    most = there.limits.get("nofile", 0)
    if needs.highest_descriptor + _OWN_FILES > most and not there.can(CAP_SYS_RESOURCE):
        yield finding(
            "limits",
            "refuse",
            f"the container has descriptor {needs.highest_descriptor} open, logins on "
            f"{there.name} may have {most} and no more without CAP_SYS_RESOURCE",
            "Raise the hard limit nofile for logins there.",
        )
    if needs.open_files + _OWN_FILES > there.open_files_left:
        yield finding(
            "limits",
            "refuse",
            f"the container has {needs.open_files} files open, {there.name} can open "
            f"{there.open_files_left} more",
            "Raise fs.file-max there.",
        )
    if needs.largest_pipe_bytes > there.pipe_max_bytes and not there.can(CAP_SYS_RESOURCE):
        yield finding(
            "limits",
            "refuse",
            f"the container has a pipe of {needs.largest_pipe_bytes} bytes, fs.pipe-max-size on "
            f"{there.name} is {there.pipe_max_bytes}",
            f"Run `sysctl -w fs.pipe-max-size={needs.largest_pipe_bytes}` there.",
        )


def _limit_text(value: int) -> str:
    return "unlimited" if value == 2**64 - 1 else str(value)


def _bridges(there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Its links find their bridges, and are heard at once."""
    for name in needs.bridges:
        if name not in there.bridges:
            yield finding(
                "network",
                "refuse",
                f"bridge {name}, which the container is on, does not exist on {there.name}",
                f"Make it there, or name another one by --bridge {name}=NAME.",
            )
        elif name in there.slow_bridges:
            yield finding(
                "network",
                "warn",
                f"bridge {name} on {there.name} uses spanning tree: the container is not heard "
                "for seconds after it has arrived",
                f"Set its forward delay to 0: ip link set {name} type bridge forward_delay 0.",
            )


CHECKS = (
    Check("cgroups", _control_groups, "{there} has every control group the container is in"),
    Check("cgroups", _processors, "{there} has the processors the container is held to"),
    Check("namespaces", _namespaces, "{there} makes every kind of namespace the container has"),
    Check("mounts", _filesystems, "{there} has every file system the container has mounted"),
    Check("devices", _devices, "{there} has a driver for every device of the container"),
    Check("seccomp", _filters, "{there} knows every action of the container's filter"),
    Check("lsm", _labels, "{there} can confine the container as it is"),
    Check("room", _memory, "{there} has the memory for it"),
    Check("room", _disk, "{there} has the disk for it"),
    Check("limits", _limits, "{there} can set every limit of the container"),
    Check("limits", _descriptors, "{there} can open what the container has open"),
    Check("network", _bridges, "{there} has every bridge the container is on"),
)
"""Every check of a host and a container; each is pure."""
