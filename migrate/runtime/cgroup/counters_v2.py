"""Counters of cgroup v2, see the kernel's admin-guide/cgroup-v2.rst.

Lives here: which file each number is in, and how it becomes the v1 number of that name.
Imported by `counters`.
"""

from __future__ import annotations

from migrate.runtime.cgroup import files
from migrate.runtime.cgroup.counters import huge_page_sizes, memory_entry, number, present

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_LIMIT = 2**64 - 1


def read(directory: str) -> dict[str, Any]:
    """Return the sections; v2 counts nothing for cpuset."""
    return {
        "cpu": _cpu(directory),
        "memory": _memory(directory),
        "pids": present(
            {"current": number(directory, "pids.current"), "limit": number(directory, "pids.max")}
        ),
        "blkio": _block_io(directory),
        "hugetlb": {
            size: present({"usage": number(directory, f"hugetlb.{size}.current")})
            | {"failcnt": _keyed(directory, f"hugetlb.{size}.events").get("max", 0)}
            for size in huge_page_sizes(directory, "current")
        },
    }


def _keyed(directory: str, name: str) -> dict[str, int]:
    return files.keyed(files.read_if_there(f"{directory}/{name}") or "")


def _cpu(directory: str) -> dict[str, Any]:
    counts = _keyed(directory, "cpu.stat")  # microseconds
    return {
        "usage": present({"total": counts.get("usage_usec", 0) * 1000})
        | {
            "kernel": counts.get("system_usec", 0) * 1000,
            "user": counts.get("user_usec", 0) * 1000,
        },
        "throttling": present(
            {
                "periods": counts.get("nr_periods"),
                "throttledPeriods": counts.get("nr_throttled"),
                "throttledTime": counts.get("throttled_usec", 0) * 1000,
            }
        ),
    }


def _limit(directory: str, name: str) -> int:
    """Return a bound; `max` is the largest number, an absent file 0."""
    text = files.read_if_there(f"{directory}/{name}")
    if text is None:
        return 0
    return NO_LIMIT if text == "max" else int(text)


def _memory(directory: str) -> dict[str, Any]:
    raw = _keyed(directory, "memory.stat")
    used, bound = number(directory, "memory.current"), _limit(directory, "memory.max")
    swapped, swap_bound = number(directory, "memory.swap.current"), 0
    if bound:
        swap_bound = _limit(directory, "memory.swap.max")
        # v1's number is of memory and swap together.
        swap_bound = NO_LIMIT if NO_LIMIT in (bound, swap_bound) else bound + swap_bound
    none = memory_entry(0, 0, 0, 0)
    failures = _keyed(directory, "memory.events").get("max", 0)
    return (
        present({"cache": raw.get("file")})
        | {
            "usage": memory_entry(bound, used, number(directory, "memory.peak"), failures),
            "swap": memory_entry(swap_bound, used + swapped, 0, 0),
            "kernel": none,
            "kernelTCP": none,
        }
        | present({"raw": dict(sorted(raw.items()))})
    )


def _block_io(directory: str) -> dict[str, list[dict[str, Any]]]:
    transferred: list[dict[str, Any]] = []
    served: list[dict[str, Any]] = []
    for line in (files.read_if_there(f"{directory}/io.stat") or "").split("\n"):
        device, _, rest = line.partition(" ")
        major, _, minor = device.partition(":")
        counts = dict(pair.split("=", 1) for pair in rest.split() if "=" in pair)
        for name, operation, entries in (
            ("rbytes", "Read", transferred),
            ("wbytes", "Write", transferred),
            ("rios", "Read", served),
            ("wios", "Write", served),
        ):
            if counts.get(name, "").isdigit():
                where = {"major": int(major), "minor": int(minor), "op": operation}
                entries.append(present(where | {"value": int(counts[name])}))
    return {"ioServiceBytesRecursive": transferred, "ioServicedRecursive": served}
