"""What a container needs of the host it goes to.

Lives here: the dataclass that travels, and finding it out on the source. Must not live
here: whether a host has it (`demands`). `live` only.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from migrate import syscalls
from migrate.checkpoint.facts import Facts
from migrate.errors import KernelError, ProtocolError
from migrate.live.kernel_facts import hard_limits, lines, numbers_of
from migrate.live.network.plan import Plan
from migrate.live.network.ports import bound_by
from migrate.live.wire import fill

if TYPE_CHECKING:
    from migrate.runtime.state import Record

# Kinds of namespaces in config.json, and in /proc/PID/ns.
NAMESPACE_FILES = {"network": "net", "mount": "mnt"}
# Parts of $.linux.resources, and the controllers that carry them out.
_CONTROLLERS = {
    "memory": "memory",
    "cpu": "cpu",
    "pids": "pids",
    "blockIO": "blkio",
    "hugepageLimits": "hugetlb",
    "rdma": "rdma",
    "devices": "devices",
}
_CPUSET = {"cpus", "mems"}


@dataclass(slots=True, kw_only=True)
class Needs:
    """What a container needs; JSON-able.

    Attributes:
        container_id: it shall keep it.
        memory_bytes: of all its processes.
        huge_bytes: of those, in huge pages, by their size in kB.
        rootfs_bytes: on the disk.
        rootfs_files: how many.
        filesystems: types that are mounted anew for it.
        cgroup_mounts: keys of the hierarchies it sees.
        cgroups_path: $.linux.cgroupsPath, or "".
        controllers: of control groups, that hold its limits; version 1's names.
        cpus, memory_nodes: numbers of those it is held to by $.linux.resources.cpu.
        bridges: that its links are ports of.
        addresses: its own, each with its hardware address and the bridge it is on.
        ports: that it has on the host's own network.
        namespace_path: of a network namespace joined by path, or "".
        namespaces: kinds it has of its own, as /proc/PID/ns names them.
        pids: of its threads, where it shares the host's process namespace.
        highest_pid: of its threads, in its own numbers.
        limits: the highest hard limits of its processes.
        open_files: of all its processes.
        highest_descriptor: that one of them has open.
        largest_pipe_bytes: that one of them has.
        devices: $.linux.devices: path, and major number as `c 1`.
        seccomp: actions of its system call filter, as the kernel names them.
        apparmor_profile: its processes', or "".
        selinux_label: its processes', or "".
    """

    container_id: str
    memory_bytes: int = 0
    huge_bytes: dict[str, int] = field(default_factory=dict)
    rootfs_bytes: int = 0
    rootfs_files: int = 0
    filesystems: list[str] = field(default_factory=list)
    cgroup_mounts: list[str] = field(default_factory=list)
    cgroups_path: str = ""
    controllers: list[str] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    memory_nodes: list[int] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)
    addresses: dict[str, dict[str, str]] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)
    namespace_path: str = ""
    namespaces: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    highest_pid: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    open_files: int = 0
    highest_descriptor: int = 0
    largest_pipe_bytes: int = 0
    devices: dict[str, str] = field(default_factory=dict)
    seccomp: list[str] = field(default_factory=list)
    apparmor_profile: str = ""
    selinux_label: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return what the source sent.

        Raises:
            ProtocolError: a value is missing or of another type.
        """
        about = "preflight: the container's needs"
        if not isinstance(data, dict) or "container_id" not in data:
            raise ProtocolError(f"{about}: is not readable")
        needs = fill(cls(container_id=""), data, about)
        for address, each in needs.addresses.items():
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise ProtocolError(f"{about}: {address!r} is no address") from None
            if each.keys() != {"mac", "bridge"}:
                raise ProtocolError(f"{about}: addresses is not what it should be")
        return needs


def needs_of(record: Record, spec: Mapping[str, Any], facts: Facts, plan: Plan) -> Needs:
    """Return what a running container needs; nothing of it is touched.

    Args:
        record: the container's.
        spec: its decoded config.json.
        facts: of `checkpoint.inspect`.
        plan: of `live.network.describe`, with the bridges of the host it goes to.
    """
    linux: Mapping[str, Any] = spec.get("linux") or {}
    cpu: Mapping[str, Any] = (linux.get("resources") or {}).get("cpu") or {}
    process: Mapping[str, Any] = spec.get("process") or {}
    binds = {mount.destination for mount in facts.mounts if mount.kind == "bind"}
    needs = Needs(
        container_id=facts.container_id,
        memory_bytes=facts.memory_bytes,
        filesystems=_filesystems(spec, binds),
        cgroup_mounts=sorted({each.controller for each in facts.mounts if each.kind == "cgroup"}),
        cgroups_path=linux.get("cgroupsPath") or "",
        controllers=_controllers(linux.get("resources") or {}),
        cpus=numbers_of(cpu.get("cpus") or ""),
        memory_nodes=numbers_of(cpu.get("mems") or ""),
        bridges=sorted({each.host.bridge for each in plan.interfaces if each.host.bridge}),
        addresses={
            address.address: {"mac": each.mac, "bridge": each.host.bridge}
            for each in plan.interfaces
            for address in each.addresses
            if each.host.bridge
        },
        namespace_path=plan.path,
        namespaces=sorted(
            NAMESPACE_FILES.get(each["type"], each["type"])
            for each in linux.get("namespaces") or ()
            if not each.get("path") or each["type"] == "network"
        ),
        devices={
            device["path"]: f"{'b' if device['type'] == 'b' else 'c'} {device['major']}"
            for device in linux.get("devices") or ()
            if device["type"] in ("b", "c", "u")
        },
        seccomp=_seccomp(linux.get("seccomp") or {}),
        apparmor_profile=process.get("apparmorProfile") or "",
        selinux_label=process.get("selinuxLabel") or "",
    )
    needs.rootfs_bytes, needs.rootfs_files = tree_size(record["rootfs"])
    if facts.network.kind == "host":
        needs.ports = bound_by(each.pid for each in facts.processes)
    for each in facts.processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _add_process(needs, each.pid, shares_pids=_is_shared(facts.pid, "pid"))
    return needs


def _filesystems(spec: Mapping[str, Any], binds: Collection[str]) -> list[str]:
    """Return the types of the mounts of config.json that are no bind mounts."""
    return sorted(
        {
            mount["type"]
            for mount in spec.get("mounts") or ()
            if mount.get("type") not in (None, "", "none", "bind", "cgroup")
            and os.path.normpath(mount["destination"]) not in binds
        }
    )


def _controllers(resources: Mapping[str, Any]) -> list[str]:
    """Return what carries out the limits of config.json."""
    found = {name for part, name in _CONTROLLERS.items() if resources.get(part)}
    cpu = resources.get("cpu") or {}
    if cpu.keys() & _CPUSET:
        found.add("cpuset")
    if cpu.keys() <= _CPUSET:
        found.discard("cpu")
    for key in resources.get("unified") or ():
        name = key.partition(".")[0]
        if name != "cgroup":
            found.add("blkio" if name == "io" else name)
    return sorted(found)


def _seccomp(seccomp: Mapping[str, Any]) -> list[str]:
    """Return the actions of a filter as /proc/sys/kernel/seccomp names them."""
    actions = {seccomp.get("defaultAction")}
    actions.update(rule.get("action") for rule in seccomp.get("syscalls") or ())
    names = {"kill": "kill_thread", "notify": "user_notif"}
    short = (action.removeprefix("SCMP_ACT_").lower() for action in actions if action)
    return sorted({names.get(name, name) for name in short})


def _is_shared(pid: int, kind: str) -> bool:
    """Tell whether a process is in our own namespace of a kind."""
    try:
        theirs = os.stat(f"/proc/{pid}/ns/{kind}").st_ino
        return theirs == os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:  # a kernel without that kind, or the process has ended
        return True


def _add_process(needs: Needs, pid: int, *, shares_pids: bool) -> None:
    """Add what one process has to what the container needs.

    Raises:
        FileNotFoundError, ProcessLookupError: it has ended.
    """
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    if shares_pids:
        needs.pids += threads
    for thread in threads:
        for line in lines(f"/proc/{pid}/task/{thread}/status"):
            if line.startswith("NSpid:"):
                needs.highest_pid = max(needs.highest_pid, int(line.split()[-1]))
    for name, value in hard_limits(pid).items():
        needs.limits[name] = max(value, needs.limits.get(name, 0))
    descriptors = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    needs.open_files += len(descriptors)
    needs.highest_descriptor = max(needs.highest_descriptor, *descriptors, 0)
    for size in _pipe_sizes(pid, descriptors):
        needs.largest_pipe_bytes = max(needs.largest_pipe_bytes, size)
    for page_kilobytes, size in _huge_mappings(pid):
        needs.huge_bytes[page_kilobytes] = needs.huge_bytes.get(page_kilobytes, 0) + size


def _pipe_sizes(pid: int, descriptors: list[int]) -> Iterator[int]:
    """Yield how much each pipe of a process holds at most."""
    pidfd = -1
    try:
        for number in descriptors:
            with contextlib.suppress(OSError, KernelError):  # it was closed meanwhile
                if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("pipe:["):
                    continue
                pidfd = pidfd if pidfd >= 0 else syscalls.pidfd_open(pid)
                copy = syscalls.pidfd_getfd(pidfd, number)
                try:
                    yield fcntl.fcntl(copy, fcntl.F_GETPIPE_SZ)
                finally:
                    os.close(copy)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _huge_mappings(pid: int) -> Iterator[tuple[str, int]]:
    """Yield page size in kB and bytes of each mapping in huge pages."""
    status = lines(f"/proc/{pid}/status")
    if not any(line.startswith("HugetlbPages:") and line.split()[1] != "0" for line in status):
        return
    page_kilobytes = ""
    for line in lines(f"/proc/{pid}/smaps"):
        key, _, value = line.partition(":")
        if key == "KernelPageSize":
            page_kilobytes = value.split()[0]
        elif key in ("Shared_Hugetlb", "Private_Hugetlb") and value.split()[0] != "0":
            yield page_kilobytes, int(value.split()[0]) << 10


def tree_size(root: str) -> tuple[int, int]:
    """Return what a tree takes on the disk, and how many files it has."""
    size = count = 0
    device = os.lstat(root).st_dev
    pending = [root]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_blocks * 512
                    count += 1
                    if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                        pending.append(entry.path)
        except OSError:
            continue  # the container runs: what goes meanwhile needs no room
    return size, count
