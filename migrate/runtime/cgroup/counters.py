"""A container's counters, under the names `runc events` gives them.

Lives here: the shape, which is the same for v1 and v2. Must not live here: file names of
one version. Imported through `migrate.runtime.cgroup`.
"""

from __future__ import annotations

import os

from migrate.runtime.cgroup import files
from migrate.runtime.cgroup.hierarchy import is_unified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def stats(paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the counters; what the kernel does not count is zero, as runc has it."""
    if is_unified(paths):
        from migrate.runtime.cgroup import counters_v2

        sections = counters_v2.read(paths[""])
    else:
        from migrate.runtime.cgroup import counters_v1

        sections = counters_v1.read(paths)
    return {
        "cpu": sections["cpu"],
        "cpuset": sections.get("cpuset") or _CPUSET,
        "memory": sections["memory"],
        "pids": sections["pids"],
        "blkio": {name: entries for name, entries in sections["blkio"].items() if entries},
        "hugetlb": sections["hugetlb"],
        "intel_rdt": {},
        "network_interfaces": None,
    }


# In the order Go prints them; `cpus` and `mems` only where there are any.
_CPUSET: dict[str, Any] = {
    "cpu_exclusive": 0,
    "mem_hardwall": 0,
    "mem_exclusive": 0,
    "memory_migrate": 0,
    "memory_spread_page": 0,
    "memory_spread_slab": 0,
    "memory_pressure": 0,
    "sched_load_balance": 0,
    "sched_relax_domain_level": 0,
}


def number(directory: str | None, name: str) -> int:
    """Return a file's number, 0 where there is none."""
    text = files.read_if_there(f"{directory}/{name}") if directory else None
    try:
        return int(text or "0")
    except ValueError:
        return 0


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not zero: Go's `omitempty`."""
    return {name: value for name, value in values.items() if value}


def huge_page_sizes(directory: str, suffix: str) -> list[str]:
    """Return the page sizes that files named hugetlb.SIZE.SUFFIX are there for."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    start, end = "hugetlb.", f".{suffix}"
    return sorted(
        name[len(start) : -len(end)]
        for name in names
        if name.startswith(start) and name.endswith(end) and ".rsvd" not in name
    )


def memory_entry(limit: int, usage: int, highest: int, failures: int) -> dict[str, int]:
    """Return one entry of the memory section."""
    return {"limit": limit} | present({"usage": usage, "max": highest}) | {"failcnt": failures}
