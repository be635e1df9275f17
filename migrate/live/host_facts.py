"""What a host is, as far as it matters to a container that comes or goes.

Lives here: looking, without changing anything. Must not live here: what follows from
it (`preflight`). Imported by `live` and, for `check`, by `cli`.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from migrate import __version__, syscalls
from migrate.checkpoint.locate import find_criu
from migrate.checkpoint.version import version
from migrate.errors import MigrateError, ProtocolError
from migrate.live.network import links, rtnetlink
from migrate.live.network.describe import route_socket
from migrate.runtime.cgroup.hierarchy import hierarchies

CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 12, 21, 24

# Limits by the names of setrlimit(2), as far as Python knows them.
LIMITS = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in sorted(vars(resource))
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}


@dataclass(slots=True, kw_only=True)
class Bridge:
    """A bridge of the host.

    Attributes:
        delays_ports: a new port is silent for a while, because of spanning tree.
        filters_vlans: what a port carries is set port by port.
    """

    delays_ports: bool = False
    filters_vlans: bool = False


@dataclass(slots=True, kw_only=True)
class HostFacts:
    """One host.

    Attributes:
        name: host name.
        program: version of this program.
        kernel: release.
        machine: architecture.
        criu: version, or "" where there is none; then criu_problem says why.
        dirty_tracking: the kernel tells which pages were written.
        lazy_pages: pages can be fetched on demand.
        cpu_vendor: such as GenuineIntel.
        cpu_flags: as /proc/cpuinfo has them.
        cgroups: keys of the mounted hierarchies.
        memory_bytes: available.
        disk_bytes: free where the bundle goes.
        disk_files: how many more can be made there; -1 where there is no limit.
        pipe_max_bytes: largest pipe without CAP_SYS_RESOURCE.
        limits: hard limits, 2**64-1 for none.
        capabilities: effective ones, a bit mask.
        is_root: effective user.
        lsm: security modules in force.
        bridges: of the network namespace, by name.
    """

    name: str = ""
    program: str = ""
    kernel: str = ""
    machine: str = ""
    criu: str = ""
    criu_problem: str = ""
    criu_hint: str = ""
    dirty_tracking: bool = False
    lazy_pages: bool = False
    cpu_vendor: str = ""
    cpu_flags: list[str] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    disk_bytes: int = 0
    disk_files: int = -1
    pipe_max_bytes: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    capabilities: int = 0
    is_root: bool = False
    lsm: list[str] = field(default_factory=list)
    bridges: dict[str, Bridge] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return what `to_json` wrote; what a newer peer adds is left out.

        Raises:
            ProtocolError: a value has another type than it should.
        """
        if not isinstance(data, dict):
            raise ProtocolError("preflight: the host's facts are not readable")
        facts = cls()
        for each in fields(cls):
            value = data.get(each.name, getattr(facts, each.name))
            if type(value) is not type(getattr(facts, each.name)):
                raise ProtocolError(f"preflight: {each.name} is not what it should be")
            setattr(facts, each.name, value)
        bridges: dict[str, Any] = dict(facts.bridges)
        try:
            facts.bridges = {name: Bridge(**each) for name, each in bridges.items()}
        except TypeError:
            raise ProtocolError("preflight: bridges are not what they should be") from None
        return facts

    def can(self, capability: int) -> bool:
        """Whether the program has a capability there."""
        return bool(self.capabilities >> capability & 1)


def gather(*, criu: str | None, bundle: str) -> HostFacts:
    """Look at this host.

    Args:
        criu: as given by --criu.
        bundle: where the container's files are or would be; need not exist.
    """
    facts = HostFacts(
        name=os.uname().nodename,
        program=__version__,
        kernel=os.uname().release,
        machine=platform.machine(),
        cgroups=sorted(hierarchies()),
        memory_bytes=_available_memory(),
        pipe_max_bytes=_number("/proc/sys/fs/pipe-max-size"),
        limits=hard_limits(0),
        capabilities=syscalls.capget()[0],
        is_root=os.geteuid() == 0,
        lsm=_words("/sys/kernel/security/lsm", ","),
        bridges=_bridges(),
    )
    facts.cpu_vendor, facts.cpu_flags = _processor()
    facts.disk_bytes, facts.disk_files = _room(bundle)
    try:
        found = version(find_criu(criu))
    except MigrateError as error:
        facts.criu_problem, facts.criu_hint = error.message, error.hint
    else:
        facts.criu = str(found)
        facts.dirty_tracking, facts.lazy_pages = found.dirty_tracking, found.lazy_pages
    return facts


def hard_limits(pid: int) -> dict[str, int]:
    """Return a process's hard limits; pid 0 means this one's."""
    found = {}
    for name, number in LIMITS.items():
        try:
            hard = resource.prlimit(pid, number)[1]
        except (OSError, ValueError):
            continue
        found[name] = hard & 0xFFFFFFFFFFFFFFFF
    return found


def _available_memory() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _processor() -> tuple[str, list[str]]:
    vendor = ""
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        key = key.strip()
        if key in {"vendor_id", "CPU implementer"}:
            vendor = vendor or value.strip()
        elif key in {"flags", "Features"}:
            return vendor, value.split()
    return vendor, []


def _room(path: str) -> tuple[int, int]:
    """Return bytes and files that fit where a path is or would be; (0, -1) if unknown."""
    while not os.path.exists(path) and path not in {"", "/"}:
        path = os.path.dirname(path)
    try:
        status = os.statvfs(path or "/")
    except OSError:
        return 0, -1
    files = status.f_favail if status.f_files else -1
    return status.f_bavail * status.f_frsize, files


def _bridges() -> dict[str, Bridge]:
    sock = route_socket()
    try:
        return {
            link.name: Bridge(
                delays_ports=bool(
                    rtnetlink.number(link.data.get(rtnetlink.IFLA_BR_STP_STATE, b""))
                    and rtnetlink.number(link.data.get(rtnetlink.IFLA_BR_FORWARD_DELAY, b""))
                ),
                filters_vlans=bool(
                    rtnetlink.number(link.data.get(rtnetlink.IFLA_BR_VLAN_FILTERING, b""))
                ),
            )
            for link in links.links(sock)
            if link.kind == "bridge"
        }
    finally:
        sock.close()


def _lines(path: str) -> Iterable[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _words(path: str, separator: str) -> list[str]:
    return [word for line in _lines(path) for word in line.strip().split(separator) if word]


def _number(path: str) -> int:
    words = _words(path, " ")
    return int(words[0]) if words and words[0].isdigit() else 0
