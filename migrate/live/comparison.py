"""Two hosts and a container compared: would it arrive whole?

Lives here: the checks that need both hosts, as pure functions. Must not live here:
looking (`host_facts`, `preflight`). Imported by `preflight` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Literal, Self

from migrate.errors import ProtocolError
from migrate.events import Finding
from migrate.live.host_facts import CAP_SYS_RESOURCE, HostFacts

# Programs ask the processor for these once and use them ever after; the rest of
# /proc/cpuinfo's flags is the kernel's business.
_INSTRUCTION_SETS = (
    *("sse4_", "avx", "fma", "bmi", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha_ni"),
    *("popcnt", "movbe", "rdrand", "rdseed", "f16c", "adx", "gfni", "amx", "xsave", "abm"),
    *("rtm", "hle", "fsgsbase", "erms", "fsrm", "rdtscp", "rdpid", "pku", "movdir", "lzcnt"),
    *("asimd", "atomics", "sve", "crc32", "sm4", "bf16"),
)

# What images need on the destination beside the memory in them.
_IMAGE_OVERHEAD_BYTES = 64 << 20
_DISK_OVERHEAD_BYTES = 16 << 20


@dataclass(slots=True, kw_only=True)
class Needs:
    """What a container needs of the host it goes to; JSON-able, it travels.

    Attributes:
        container_id: it shall keep it.
        memory_bytes: of all its processes.
        rootfs_bytes: on the disk.
        rootfs_files: how many.
        binds: what is mounted from the host: destination inside, and source.
        writable_binds: destinations of those it may write to.
        cgroup_mounts: keys of the hierarchies it sees.
        bridges: that its links are ports of.
        namespace_path: of a network namespace joined by path, or "".
        pids: of its processes, where it shares the host's process namespace.
        limits: the highest hard limits of its processes.
    """

    container_id: str
    memory_bytes: int = 0
    rootfs_bytes: int = 0
    rootfs_files: int = 0
    binds: dict[str, str] = field(default_factory=dict)
    writable_binds: list[str] = field(default_factory=list)
    cgroup_mounts: list[str] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)
    namespace_path: str = ""
    pids: list[int] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return what the source sent.

        Raises:
            ProtocolError: a value is missing or of another type.
        """
        if not isinstance(data, dict) or not isinstance(data.get("container_id"), str):
            raise ProtocolError("preflight: the container's needs are not readable")
        needs = cls(container_id=data["container_id"])
        for each in fields(cls):
            value = data.get(each.name, getattr(needs, each.name))
            if type(value) is not type(getattr(needs, each.name)):
                raise ProtocolError(f"preflight: {each.name} is not what it should be")
            setattr(needs, each.name, value)
        return needs


def finding(
    check: str, verdict: Literal["ok", "warn", "refuse"], message: str, hint: str = ""
) -> Finding:
    """Return a finding."""
    return Finding(check=check, verdict=verdict, message=message, hint=hint)


def numbers(version: str) -> tuple[int, ...]:
    """Return a version to compare; what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _versions(source: HostFacts, there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """An image can be read by the same CRIU or a newer one."""
    del needs
    if source.criu and there.criu and numbers(there.criu)[:2] < numbers(source.criu)[:2]:
        yield finding(
            "criu",
            "refuse",
            f"CRIU {there.criu} on {there.name} is older than {source.criu} on {source.name} and "
            "may not read its images",
            f"Install CRIU {source.criu} or a newer one on {there.name}.",
        )
    if numbers(there.kernel.partition("-")[0])[:2] < numbers(source.kernel.partition("-")[0])[:2]:
        yield finding(
            "kernel",
            "warn",
            f"kernel {there.kernel} on {there.name} is older than {source.kernel} on {source.name}",
            "What the container uses of the newer kernel would be missing.",
        )


def _processors(source: HostFacts, there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Programs keep using what they found on the first processor."""
    del needs
    if source.machine != there.machine:
        yield finding(
            "cpu",
            "refuse",
            f"{there.name} is {there.machine}, {source.name} is {source.machine}",
            "Choose a host of the same architecture.",
        )
        return
    used = {flag for flag in source.cpu_flags if flag.startswith(_INSTRUCTION_SETS)}
    missing = sorted(used - set(there.cpu_flags))
    if missing:
        yield finding(
            "cpu",
            "refuse",
            f"the processor of {there.name} lacks {', '.join(missing[:8])}"
            f"{' and more' if len(missing) > 8 else ''}, which programs may be using",
            "Choose a host whose processor has them.",
        )
    if source.cpu_vendor != there.cpu_vendor:
        yield finding(
            "cpu",
            "warn",
            f"processors are of two makers: {source.cpu_vendor} and {there.cpu_vendor}",
            "Programs that chose code for one maker keep running it on the other.",
        )


def _control_groups(source: HostFacts, there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """The trees that the container is in, or sees, are there."""
    missing = set(source.cgroups) - set(there.cgroups)
    seen = sorted(missing & set(needs.cgroup_mounts))
    if seen:
        yield finding(
            "cgroups",
            "refuse",
            f"the container sees the control groups {_named(seen)}, which {there.name} "
            "has not mounted",
            "Mount them there, or choose a host with the same layout of control groups.",
        )
    others = sorted(missing - set(seen))
    if others:
        yield finding(
            "cgroups",
            "warn",
            f"{there.name} has not mounted the control groups {_named(others)}",
            "Limits by them do not hold there.",
        )


def _named(keys: list[str]) -> str:
    return ", ".join(key or "of version 2" for key in keys)


def _room(source: HostFacts, there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Memory, images and files fit."""
    del source
    images = needs.memory_bytes + _IMAGE_OVERHEAD_BYTES
    # Large private memory leaves the images as it is restored; the rest is there twice.
    if images + needs.memory_bytes > there.memory_bytes:
        yield finding(
            "room",
            "refuse" if images > there.memory_bytes else "warn",
            f"{there.name} has {_size_text(there.memory_bytes)} of memory available, the "
            f"container takes {_size_text(images)}, and what of it is shared twice as much",
            "Stop something there, or choose a host with more memory.",
        )
    disk = needs.rootfs_bytes + _DISK_OVERHEAD_BYTES
    if disk > there.disk_bytes:
        yield finding(
            "room",
            "refuse",
            f"{there.name} has {_size_text(there.disk_bytes)} of disk for the bundle, "
            f"its files take {_size_text(disk)}",
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


def _size_text(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GiB"


def _limits(source: HostFacts, there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Limits that the container has can be set there."""
    del source
    if there.can(CAP_SYS_RESOURCE):
        return
    for name, value in needs.limits.items():
        highest = there.limits.get(name, 0)
        if value > highest:
            yield finding(
                "limits",
                "refuse",
                f"the container's limit {name} is {_limit_text(value)}, {there.name} cannot go "
                f"above {_limit_text(highest)} without CAP_SYS_RESOURCE",
                f"Raise the hard limit {name} for logins there, or lower the container's.",
            )


def _limit_text(value: int) -> str:
    return "unlimited" if value == 2**64 - 1 else str(value)


def _bridges(source: HostFacts, there: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Its links find their bridges, and are heard at once."""
    del source
    for name in needs.bridges:
        bridge = there.bridges.get(name)
        if bridge is None:
            yield finding(
                "network",
                "refuse",
                f"bridge {name}, which the container is on, does not exist on {there.name}",
                f"Make it there, or name another one by --bridge {name}=NAME.",
            )
        elif bridge.delays_ports:
            yield finding(
                "network",
                "warn",
                f"bridge {name} on {there.name} uses spanning tree: the container is not heard "
                "for seconds after it has arrived",
                f"Set its forward delay to 0: ip link set {name} type bridge forward_delay 0.",
            )


CHECKS: tuple[Callable[[HostFacts, HostFacts, Needs], Iterator[Finding]], ...] = (
    _versions,
    _processors,
    _control_groups,
    _room,
    _limits,
    _bridges,
)
"""Every check of source, destination and container; each is pure."""
