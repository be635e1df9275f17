"""The cells of the matrix: what is moved, over which link, by which method.

Lives here: which cells there are, pure. Must not live here: measuring, showing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypedDict

from bench.migration import Method

Link = Literal["unlimited", "1 Gbit/s", "100 Mbit/s"]

UNLIMITED: Link = "unlimited"
LINKS: tuple[Link, ...] = (UNLIMITED, "1 Gbit/s", "100 Mbit/s")
METHODS: tuple[Method, ...] = ("script", "stop-copy", "pre-copy")
MEMORIES_MIB = (0, 256, 1024, 4096)
BUSY_PAGES = 5

# The script has the images on both hosts while the memory comes to life on the other one.
COPIES = 3
SPARE_MIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination.

    Attributes:
        memory_mib: what the container fills; 0 is busybox alone.
        dirty_pages: written at each tick, of which there is about one a millisecond.
        link: between the hosts, in each direction.
        method: may be one that does not exist yet, in what is wanted of it.
    """

    memory_mib: int
    dirty_pages: int = 0
    link: Link = UNLIMITED
    method: str

    @property
    def load(self) -> str:
        """What is moved, in words."""
        size = size_name(self.memory_mib)
        return f"{size} busy" if self.dirty_pages else size


class Measured(TypedDict):
    """A cell and what it cost, as data.

    Attributes:
        runs: each as `migration.Outcome.as_json` has it.
        left_out: why there are none, or not as many as wanted; or "".
    """

    memory_mib: int
    dirty_pages: int
    link: Link
    method: Method
    runs: list[dict[str, Any]]
    left_out: str


def size_name(memory_mib: int) -> str:
    """Return how a container's memory is called."""
    if memory_mib == 0:
        return "busybox"
    return f"{memory_mib // 1024} GiB" if memory_mib % 1024 == 0 else f"{memory_mib} MiB"


def unmeasured(memory_mib: int, dirty_pages: int, link: Link, method: Method) -> Measured:
    """Return a cell that nothing is known of yet."""
    return {
        "memory_mib": memory_mib,
        "dirty_pages": dirty_pages,
        "link": link,
        "method": method,
        "runs": [],
        "left_out": "the run ended before its turn",
    }


def full(memories_mib: Sequence[int] = MEMORIES_MIB) -> list[Measured]:
    """Return all cells; busybox alone has no memory to write to, so it is never busy."""
    return [
        unmeasured(memory, dirty, link, method)
        for link in LINKS
        for memory in sorted(set(memories_mib))
        for dirty in ((0, BUSY_PAGES) if memory else (0,))
        for method in METHODS
    ]


def small() -> list[Measured]:
    """Return the cells that the goals are judged by."""
    return [
        *(unmeasured(0, 0, UNLIMITED, method) for method in METHODS),
        unmeasured(256, 0, UNLIMITED, "pre-copy"),
        *(unmeasured(1024, 0, UNLIMITED, method) for method in METHODS),
        *(unmeasured(1024, BUSY_PAGES, UNLIMITED, method) for method in METHODS),
        unmeasured(4096, 0, UNLIMITED, "pre-copy"),
        *(unmeasured(1024, 0, "100 Mbit/s", method) for method in ("script", "pre-copy")),
    ]


def lack_of_room(memory_mib: int, available_mib: int) -> str:
    """Return why a container of that size cannot be moved on this machine, or ""."""
    needed = COPIES * memory_mib + SPARE_MIB
    if needed <= available_mib:
        return ""
    return f"needs {needed} MiB of this machine's memory, of which {available_mib} are available"


def find(measured: Sequence[Measured], cell: Cell) -> Measured | None:
    """Return what was measured of a cell, if it was in the plan."""
    for each in measured:
        if (each["memory_mib"], each["dirty_pages"], each["link"], each["method"]) == (
            cell.memory_mib,
            cell.dirty_pages,
            cell.link,
            cell.method,
        ):
            return each
    return None


def middle(measured: Measured | None, field: str) -> float | None:
    """Return the median of a field, or None where nothing was measured."""
    if measured is None or not measured["runs"]:
        return None
    return float(median(run[field] for run in measured["runs"]))
