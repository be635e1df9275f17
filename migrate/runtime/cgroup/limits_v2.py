"""Limits of cgroup v2, see the kernel's admin-guide/cgroup-v2.rst.

Lives here: how the runtime-spec's values, which are v1's, become v2's, and which file
they go to. The conversions are those every runtime uses. Imported by `limits`.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup import files
from migrate.runtime.cgroup.limits_v1 import rdma_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Writes = Iterator[tuple[str, str]]

DEFAULT_PERIOD_US = 100_000


def apply(directory: str, resources: Mapping[str, Any]) -> None:
    """Write every limit; each section yields (file, value) in its order."""
    for section in (_memory, _cpu, _cpuset, _pids, _huge_pages, _rdma):
        for name, value in section(resources):
            files.write(f"{directory}/{name}", value)
    for name, value in _block_io(directory, resources.get("blockIO") or {}):
        files.write(f"{directory}/{name}", value)
    for name, value in (resources.get("unified") or {}).items():
        if "/" in name:
            raise CgroupError(
                f'resources.unified names "{name}", which is no file name',
                "Name a file of the cgroup, such as memory.high.",
            )
        files.write(f"{directory}/{name}", value)


def weight_of_shares(shares: int) -> int:
    """Return the cpu.weight (1 to 10000) for cpu.shares (2 to 262144)."""
    return 1 + ((max(shares, 2) - 2) * 9999) // 262142 if shares else 0


def io_weight(weight: int) -> int:
    """Return the io.weight (1 to 10000) for a blkio weight (10 to 1000)."""
    return 1 + (weight - 10) * 9999 // 990 if weight else 0


def swap_only(memory_and_swap: int, memory: int) -> int:
    """Return the limit of swap alone, of v1's limit of both together.

    Returns:
        -1 for no limit, 0 for nothing to set where `memory_and_swap` is 0.

    Raises:
        CgroupError: the two together make no sense.
    """
    if memory == -1 and memory_and_swap == 0:
        return -1
    if memory_and_swap in (-1, 0):
        return memory_and_swap
    if memory in (-1, 0):
        raise CgroupError(
            "memory.swap cannot be limited without memory.limit", "Set memory.limit too."
        )
    if memory_and_swap < memory:
        raise CgroupError(
            f"memory.swap {memory_and_swap} is below memory.limit {memory}",
            "Give memory.swap as the sum of memory and swap.",
        )
    return memory_and_swap - memory


def _bound(value: int) -> str:
    """Return a bound as v2 writes it."""
    return "max" if value < 0 else str(value)


def _memory(resources: Mapping[str, Any]) -> Writes:
    memory = resources.get("memory") or {}
    limit, both = memory.get("limit") or 0, memory.get("swap") or 0
    swap = swap_only(both, limit)
    # Swap first: with swap forbidden afterwards, the new bound may not be reachable.
    if swap or both > 0:
        yield "memory.swap.max", _bound(swap)
    if limit:
        yield "memory.max", _bound(limit)
    if memory.get("reservation"):
        yield "memory.low", _bound(memory["reservation"])


def _cpu(resources: Mapping[str, Any]) -> Writes:
    cpu = resources.get("cpu") or {}
    if cpu.get("idle") is not None:
        yield "cpu.idle", str(cpu["idle"])
    if cpu.get("shares") and not cpu.get("idle"):
        yield "cpu.weight", str(weight_of_shares(cpu["shares"]))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        yield "cpu.max", f"{quota if quota > 0 else 'max'} {period or DEFAULT_PERIOD_US}"
    if cpu.get("burst"):
        yield "cpu.max.burst", str(cpu["burst"])


def _cpuset(resources: Mapping[str, Any]) -> Writes:
    cpu = resources.get("cpu") or {}
    for field, name in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(field):
            yield name, cpu[field]


def _pids(resources: Mapping[str, Any]) -> Writes:
    limit = (resources.get("pids") or {}).get("limit") or 0
    if limit:
        yield "pids.max", _bound(limit)


def _block_io(directory: str, block: Mapping[str, Any]) -> Writes:
    if block.get("weight"):
        if os.path.exists(f"{directory}/io.bfq.weight"):
            yield "io.bfq.weight", str(block["weight"])
        else:
            yield "io.weight", f"default {io_weight(block['weight'])}"
    for device in block.get("weightDevice") or ():
        if device.get("weight"):
            yield "io.bfq.weight", f"{device['major']}:{device['minor']} {device['weight']}"
    for field, key in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for device in block.get(field) or ():
            yield "io.max", f"{device['major']}:{device['minor']} {key}={device['rate'] or 'max'}"


def _huge_pages(resources: Mapping[str, Any]) -> Writes:
    for limit in resources.get("hugepageLimits") or ():
        yield f"hugetlb.{limit['pageSize']}.max", str(limit["limit"])


def _rdma(resources: Mapping[str, Any]) -> Writes:
    for device, limit in (resources.get("rdma") or {}).items():
        yield "rdma.max", rdma_text(device, limit)
