"""Counters of cgroup v1, see the kernel's admin-guide/cgroup-v1.

Lives here: which file each number is in. Imported by `counters`.
"""

from __future__ import annotations

import os

from migrate.runtime.cgroup import files
from migrate.runtime.cgroup.counters import huge_page_sizes, memory_entry, number, present
from migrate.runtime.cgroup.hierarchy import directory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NANOSECONDS = 1_000_000_000

_CPUSET_FILES = {
    "cpu_exclusive": "cpuset.cpu_exclusive",
    "mem_hardwall": "cpuset.mem_hardwall",
    "mem_exclusive": "cpuset.mem_exclusive",
    "memory_migrate": "cpuset.memory_migrate",
    "memory_spread_page": "cpuset.memory_spread_page",
    "memory_spread_slab": "cpuset.memory_spread_slab",
    "memory_pressure": "cpuset.memory_pressure",
    "sched_load_balance": "cpuset.sched_load_balance",
    "sched_relax_domain_level": "cpuset.sched_relax_domain_level",
}

_BLOCK_FILES = {
    "ioServiceBytesRecursive": "io_service_bytes",
    "ioServicedRecursive": "io_serviced",
    "ioQueueRecursive": "io_queued",
    "ioServiceTimeRecursive": "io_service_time",
    "ioWaitTimeRecursive": "io_wait_time",
    "ioMergedRecursive": "io_merged",
    "ioTimeRecursive": "time",
    "sectorsRecursive": "sectors",
}


def read(paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections, cpuset's included."""
    return {
        "cpu": _cpu(paths),
        "cpuset": _cpuset(directory_of(paths, "cpuset")),
        "memory": _memory(directory_of(paths, "memory")),
        "pids": _pids(directory_of(paths, "pids")),
        "blkio": _block_io(directory_of(paths, "blkio")),
        "hugetlb": _huge_pages(directory_of(paths, "hugetlb")),
    }


def _cpu(paths: Mapping[str, str]) -> dict[str, Any]:
    accounts, shares = directory_of(paths, "cpuacct"), directory_of(paths, "cpu")
    ticks = files.keyed(files.read_if_there(f"{accounts}/cpuacct.stat") or "")
    tick = NANOSECONDS // os.sysconf("SC_CLK_TCK")
    table = (files.read_if_there(f"{accounts}/cpuacct.usage_all") or "").split("\n")[1:]
    rows = [[int(field) for field in line.split()] for line in table]
    percpu = (files.read_if_there(f"{accounts}/cpuacct.usage_percpu") or "").split()
    usage = present(
        {
            "total": number(accounts, "cpuacct.usage"),
            "percpu": [int(value) for value in percpu],
            "percpu_kernel": [row[2] for row in rows if len(row) > 2],
            "percpu_user": [row[1] for row in rows if len(row) > 1],
        }
    )
    usage |= {"kernel": ticks.get("system", 0) * tick, "user": ticks.get("user", 0) * tick}
    throttling = files.keyed(files.read_if_there(f"{shares}/cpu.stat") or "")
    return {
        "usage": usage,
        "throttling": present(
            {
                "periods": throttling.get("nr_periods"),
                "throttledPeriods": throttling.get("nr_throttled"),
                "throttledTime": throttling.get("throttled_time"),
            }
        ),
    }


def _cpuset(directory: str | None) -> dict[str, Any]:
    if directory is None:
        return {}
    section: dict[str, Any] = {}
    # Keys keep the place they are first given: cpus before the rest, mems after the first.
    for name, file in _CPUSET_FILES.items():
        if name == "cpu_exclusive":
            section |= present({"cpus": _numbers(directory, "cpuset.cpus")})
        if name == "mem_hardwall":
            section |= present({"mems": _numbers(directory, "cpuset.mems")})
        section[name] = number(directory, file)
    return section


def _numbers(directory: str, name: str) -> list[int]:
    """Return a list such as 0-3,7 number by number."""
    found: list[int] = []
    for part in (files.read_if_there(f"{directory}/{name}") or "").split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def _memory(directory: str | None) -> dict[str, Any]:
    raw = files.keyed(files.read_if_there(f"{directory}/memory.stat") or "") if directory else {}
    section: dict[str, Any] = present({"cache": raw.get("cache")})
    for name, prefix in (
        ("usage", "memory."),
        ("swap", "memory.memsw."),
        ("kernel", "memory.kmem."),
        ("kernelTCP", "memory.kmem.tcp."),
    ):
        section[name] = memory_entry(
            number(directory, f"{prefix}limit_in_bytes"),
            number(directory, f"{prefix}usage_in_bytes"),
            number(directory, f"{prefix}max_usage_in_bytes"),
            number(directory, f"{prefix}failcnt"),
        )
    return section | present({"raw": dict(sorted(raw.items()))})


def _pids(directory: str | None) -> dict[str, Any]:
    return present(
        {"current": number(directory, "pids.current"), "limit": number(directory, "pids.max")}
    )


def _block_io(directory: str | None) -> dict[str, list[dict[str, Any]]]:
    if directory is None:
        return {}
    # BFQ counts where it schedules; where it does not, the throttling layer does.
    with_bfq = {
        name: _entries(f"{directory}/blkio.bfq.{file}_recursive")
        for name, file in _BLOCK_FILES.items()
    }
    if with_bfq["ioServicedRecursive"]:
        return with_bfq
    return {
        name: _entries(f"{directory}/blkio.throttle.{_BLOCK_FILES[name]}")
        for name in ("ioServiceBytesRecursive", "ioServicedRecursive")
    }


def _entries(path: str) -> list[dict[str, Any]]:
    """Return the lines `MAJOR:MINOR [OPERATION] VALUE` of a file."""
    found = []
    for line in (files.read_if_there(path) or "").split("\n"):
        fields = line.replace(":", " ").split()
        if len(fields) < 3 or not fields[0].isdigit():
            continue  # the sum over all devices
        found.append(
            present(
                {
                    "major": int(fields[0]),
                    "minor": int(fields[1]),
                    "op": fields[2] if len(fields) > 3 else "",
                    "value": int(fields[-1]),
                }
            )
        )
    return found


def _huge_pages(directory: str | None) -> dict[str, Any]:
    if directory is None:
        return {}
    return {
        size: present(
            {
                "usage": number(directory, f"hugetlb.{size}.usage_in_bytes"),
                "max": number(directory, f"hugetlb.{size}.max_usage_in_bytes"),
            }
        )
        | {"failcnt": number(directory, f"hugetlb.{size}.failcnt")}
        for size in huge_page_sizes(directory, "usage_in_bytes")
    }
