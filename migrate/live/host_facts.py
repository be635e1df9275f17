"""What a host is, as far as it matters to a container that comes or goes.

Lives here: looking, without changing anything. Must not live here: what follows from
it (`preflight`), single files of /proc (`kernel_facts`). Imported by `live` only.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from migrate import __version__, syscalls
from migrate.checkpoint.locate import find_criu
from migrate.checkpoint.version import version
from migrate.errors import MigrateError
from migrate.live import kernel_facts
from migrate.live.network import links, rtnetlink
from migrate.live.network.describe import route_socket
from migrate.live.wire import fill
from migrate.runtime.cgroup.hierarchy import hierarchies

CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 12, 19, 21, 24


@dataclass(slots=True, kw_only=True)
class HostFacts:
    """One host; JSON-able, it travels.

    Attributes:
        name: host name.
        program: version of this program.
        kernel: release.
        machine: architecture.
        criu: version, or "" where there is none; then criu_problem says why.
        dirty_tracking: the kernel tells which pages were written.
        lazy_pages: pages can be fetched on demand.
        cpu_vendor: such as GenuineIntel.
        cpu_name: as its maker calls it.
        cpu_flags: as /proc/cpuinfo has them.
        cpus: numbers of the processors in use.
        memory_nodes: numbers of the memory nodes in use.
        cgroups: keys of the mounted hierarchies.
        controllers: of control groups, that can set limits; version 1's names.
        namespaces: kinds that can be made, as /proc/PID/ns names them.
        filesystems: types the kernel has loaded.
        drivers: major numbers of devices with a driver, as `c 1`.
        seccomp: actions of system call filters, as the kernel names them.
        lsm: security modules in force.
        apparmor_profiles: loaded ones.
        memory_bytes: available.
        huge_pages: free ones, by their size in kB.
        disk: where the bundle goes: the number of its file system.
        disk_bytes: free there.
        disk_files: how many more can be made there; -1 where there is no limit.
        state_bytes: free where the state root is.
        pipe_max_bytes: largest pipe without CAP_SYS_RESOURCE.
        open_files_left: how many more can be opened.
        open_files_most: highest limit on a process's open files that can be set.
        pid_max: process numbers are below it.
        limits: hard limits, 2**64-1 for none.
        capabilities: effective ones, a bit mask.
        is_root: effective user.
        bridges: of the network namespace.
        slow_bridges: those with spanning tree, on which a new port is silent for a while.
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
    cpu_name: str = ""
    cpu_flags: list[str] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    memory_nodes: list[int] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)
    controllers: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    filesystems: list[str] = field(default_factory=list)
    drivers: list[str] = field(default_factory=list)
    seccomp: list[str] = field(default_factory=list)
    lsm: list[str] = field(default_factory=list)
    apparmor_profiles: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    huge_pages: dict[str, int] = field(default_factory=dict)
    disk: str = ""
    disk_bytes: int = 0
    disk_files: int = -1
    state_bytes: int = 0
    pipe_max_bytes: int = 0
    open_files_left: int = 0
    open_files_most: int = 0
    pid_max: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    capabilities: int = 0
    is_root: bool = False
    bridges: list[str] = field(default_factory=list)
    slow_bridges: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return what `to_json` wrote; what a newer peer adds is left out.

        Raises:
            ProtocolError: a value has another type than it should.
        """
        return fill(cls(), data, "preflight: the host's facts")

    def can(self, capability: int) -> bool:
        """Whether the program has a capability there."""
        return bool(self.capabilities >> capability & 1)

    def look_for_room(self, bundle: str) -> None:
        """Look, on this host, at the disk a bundle would be on.

        Args:
            bundle: need not exist.
        """
        self.disk = kernel_facts.filesystem_of(bundle)
        self.disk_bytes, self.disk_files = kernel_facts.room(bundle)


def gather(*, criu: str | None, bundle: str = "/", root: str = "/run") -> HostFacts:
    """Look at this host.

    Args:
        criu: as given by --criu.
        bundle: where the container's files are or would be; need not exist.
        root: the state root; need not exist.
    """
    facts = HostFacts(
        name=os.uname().nodename,
        program=__version__,
        kernel=os.uname().release,
        machine=platform.machine(),
        cpus=kernel_facts.online("cpu"),
        memory_nodes=kernel_facts.online("node"),
        cgroups=sorted(hierarchies()),
        controllers=kernel_facts.controllers(),
        namespaces=kernel_facts.namespaces(),
        filesystems=kernel_facts.filesystems(),
        drivers=kernel_facts.drivers(),
        seccomp=kernel_facts.words("/proc/sys/kernel/seccomp/actions_avail"),
        lsm=kernel_facts.words("/sys/kernel/security/lsm", ","),
        apparmor_profiles=[
            line.rpartition(" (")[0]
            for line in kernel_facts.lines("/sys/kernel/security/apparmor/profiles")
        ],
        memory_bytes=kernel_facts.available_memory(),
        huge_pages=kernel_facts.huge_pages(),
        state_bytes=kernel_facts.room(root)[0],
        pipe_max_bytes=kernel_facts.number("/proc/sys/fs/pipe-max-size"),
        open_files_left=kernel_facts.open_files_left(),
        open_files_most=kernel_facts.number("/proc/sys/fs/nr_open"),
        pid_max=kernel_facts.number("/proc/sys/kernel/pid_max"),
        limits=kernel_facts.hard_limits(0),
        capabilities=syscalls.capget()[0],
        is_root=os.geteuid() == 0,
    )
    facts.cpu_vendor, facts.cpu_name, facts.cpu_flags = kernel_facts.processor()
    facts.look_for_room(bundle)
    facts.bridges, facts.slow_bridges = _bridges()
    try:
        found = version(find_criu(criu))
    except MigrateError as error:
        facts.criu_problem, facts.criu_hint = error.message, error.hint
    else:
        facts.criu = str(found)
        facts.dirty_tracking, facts.lazy_pages = found.dirty_tracking, found.lazy_pages
    return facts


def _bridges() -> tuple[list[str], list[str]]:
    """Return the bridges, and those on which a new port is silent for a while."""
    sock = route_socket()
    try:
        found = [link for link in links.links(sock) if link.kind == "bridge"]
    finally:
        sock.close()
    slow = [
        link.name
        for link in found
        if rtnetlink.number(link.data.get(rtnetlink.IFLA_BR_STP_STATE, b""))
        and rtnetlink.number(link.data.get(rtnetlink.IFLA_BR_FORWARD_DELAY, b""))
    ]
    return sorted(link.name for link in found), sorted(slow)
