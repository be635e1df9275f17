"""Limits of cgroup v1, see the kernel's admin-guide/cgroup-v1.

Lives here: which value goes to which file, and in which order. Imported by `limits`.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup import files
from migrate.runtime.cgroup.hierarchy import directory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Writes = Iterator[tuple[str, str, str]]


def apply(paths: Mapping[str, str], resources: Mapping[str, Any]) -> None:
    """Write every limit; each section yields (controller, file, value) in its order."""
    if resources.get("unified"):
        raise CgroupError(
            "resources.unified is for cgroup v2, and this host has v1",
            "Remove it, or use the sections memory, cpu, pids and so on.",
        )
    _set_memory(paths, resources.get("memory") or {})
    for section in (_cpu, _cpuset, _pids, _block_io, _huge_pages, _network, _rdma):
        for controller, name, value in section(resources):
            directory = directory_of(paths, controller)
            if directory is None:
                raise CgroupError(
                    f"cannot set {name} to {value}: the {controller} controller is not mounted",
                    "Leave the limit out, or mount the controller below /sys/fs/cgroup.",
                )
            files.write(f"{directory}/{_spelled(directory, name)}", value)


def _spelled(directory: str, name: str) -> str:
    """Return a file's name as this kernel has it: the weight is BFQ's on newer ones."""
    if name in ("blkio.weight", "blkio.weight_device") and not os.path.exists(
        f"{directory}/{name}"
    ):
        return name.replace("blkio.", "blkio.bfq.")
    return name


def _set_memory(paths: Mapping[str, str], memory: Mapping[str, Any]) -> None:
    """Set the memory limits, such that limit <= limit + swap holds at each step."""
    if not any(memory.values()):
        return
    directory = directory_of(paths, "memory")
    if directory is None:
        raise CgroupError(
            "cannot set a memory limit: the memory controller is not mounted",
            "Leave the limit out, or mount the controller below /sys/fs/cgroup.",
        )
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    swap_file = f"{directory}/memory.memsw.limit_in_bytes"
    if limit == -1 and swap == 0 and os.path.exists(swap_file):
        swap = -1  # no limit of memory means none of both together
    steps = [
        ("memory.limit_in_bytes", limit),
        ("memory.memsw.limit_in_bytes", swap),
    ]
    if limit and swap:
        current = int(files.read(f"{directory}/memory.limit_in_bytes"))
        if swap == -1 or current < swap:
            steps.reverse()  # raising: the upper bound first
    steps += [
        ("memory.soft_limit_in_bytes", memory.get("reservation") or 0),
        ("memory.kmem.tcp.limit_in_bytes", memory.get("kernelTCP") or 0),
    ]
    for name, value in steps:
        if value:
            _write_memory(directory, name, value)
    if memory.get("disableOOMKiller"):
        files.write(f"{directory}/memory.oom_control", "1")
    swappiness = memory.get("swappiness")
    if swappiness is not None:
        files.write(f"{directory}/memory.swappiness", str(swappiness))


def _write_memory(directory: str, name: str, value: int) -> None:
    """Write one bound; too small a one is refused with what is in use."""
    try:
        files.write_raw(f"{directory}/{name}", str(value))
    except OSError as error:
        in_use = files.read_if_there(f"{directory}/memory.usage_in_bytes")
        hint = f"{in_use} bytes are in use." if in_use else ""
        if isinstance(error, FileNotFoundError):
            files.write(f"{directory}/{name}", str(value), hint)
        raise CgroupError(
            f"cannot write {value} to {directory}/{name}: {str(error.strerror).lower()}", hint
        ) from None


def _cpu(resources: Mapping[str, Any]) -> Writes:
    cpu = resources.get("cpu") or {}
    # Real-time: the period bounds the run time, so it comes first.
    for field, name in (
        ("shares", "cpu.shares"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"),
    ):
        if cpu.get(field):
            yield "cpu", name, str(cpu[field])
    if cpu.get("idle") is not None:
        yield "cpu", "cpu.idle", str(cpu["idle"])


def _cpuset(resources: Mapping[str, Any]) -> Writes:
    cpu = resources.get("cpu") or {}
    for field, name in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(field):
            yield "cpuset", name, cpu[field]


def _pids(resources: Mapping[str, Any]) -> Writes:
    limit = (resources.get("pids") or {}).get("limit") or 0
    if limit:
        yield "pids", "pids.max", str(limit) if limit > 0 else "max"


def _block_io(resources: Mapping[str, Any]) -> Writes:
    block = resources.get("blockIO") or {}
    for field, name in (("weight", "blkio.weight"), ("leafWeight", "blkio.leaf_weight")):
        if block.get(field):
            yield "blkio", name, str(block[field])
    for device in block.get("weightDevice") or ():
        number = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            yield "blkio", "blkio.weight_device", f"{number} {device['weight']}"
        if device.get("leafWeight"):
            yield "blkio", "blkio.leaf_weight_device", f"{number} {device['leafWeight']}"
    for field, name in (
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    ):
        for device in block.get(field) or ():
            yield "blkio", name, f"{device['major']}:{device['minor']} {device['rate']}"


def _huge_pages(resources: Mapping[str, Any]) -> Writes:
    for limit in resources.get("hugepageLimits") or ():
        yield "hugetlb", f"hugetlb.{limit['pageSize']}.limit_in_bytes", str(limit["limit"])


def _network(resources: Mapping[str, Any]) -> Writes:
    network = resources.get("network") or {}
    if network.get("classID"):
        yield "net_cls", "net_cls.classid", str(network["classID"])
    for priority in network.get("priorities") or ():
        yield "net_prio", "net_prio.ifpriomap", f"{priority['name']} {priority['priority']}"


def _rdma(resources: Mapping[str, Any]) -> Writes:
    for device, limit in (resources.get("rdma") or {}).items():
        yield "rdma", "rdma.max", rdma_text(device, limit)


def rdma_text(device: str, limit: Mapping[str, Any]) -> str:
    """Return one device's line of rdma.max; what is not limited is `max`."""
    handles, objects = (
        "max" if limit.get(field) is None else str(limit[field])
        for field in ("hcaHandles", "hcaObjects")
    )
    return f"{device} hca_handle={handles} hca_object={objects}"
