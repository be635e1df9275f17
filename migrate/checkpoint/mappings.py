"""The memory of a running process that can follow it page by page.

Lives here: which mappings, and which pages of them are there. Must not live here: which
of those have changed (`written`, `hashed`). May be imported by `checkpoint` only.

It is what CRIU calls lazy (criu/include/vma.h, vma_entry_can_be_lazy): private and
anonymous. Locked memory and huge pages are not lazy; of those that this module names,
CRIU's own list of pages decides in the end.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from migrate.checkpoint import procfs
from migrate.checkpoint.pages import PAGE_SHIFT

Span = tuple[int, int]
"""First address and the one behind the last, both a page's."""

_NAMED = ("[heap]", "[stack]", "[anon:")
_ENTRY_BYTES = 8
_PRESENT_OR_SWAPPED = 3 << 62
_READ_PAGES = 1 << 16


def lazy_mappings(pid: int) -> list[Span]:
    """Return a process's private anonymous mappings, in rising order.

    Raises:
        OSError: it has ended.
    """
    found: list[Span] = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split(None, 5)
            if words[1][3] != "p" or words[4] != "0":
                continue
            name = words[5].rstrip("\n") if len(words) > 5 else ""
            if name and not name.startswith(_NAMED):
                continue
            start, _, end = words[0].partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much memory a container has.

    Attributes:
        lazy_bytes: what can follow page by page, and some private copies of files.
        other_bytes: shared, locked and huge pages, which cannot.
    """

    lazy_bytes: int
    other_bytes: int


def amounts(pids: Iterable[int]) -> Amounts:
    """Return how much memory processes have, see proc_pid_status(5)."""
    lazy = other = 0
    for pid in pids:
        try:
            status = procfs.status(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        lazy += _kib(status, "RssAnon") + _kib(status, "VmSwap")
        other += sum(_kib(status, name) for name in ("RssShmem", "VmLck", "HugetlbPages"))
    return Amounts(lazy_bytes=lazy << 10, other_bytes=other << 10)


def _kib(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0 kB").split()[0])


def pages_there(pid: int, mappings: list[Span]) -> Iterator[Span]:
    """Yield what of the mappings has pages, see pagemap in the kernel's documentation."""
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in mappings:
            for first in range(start >> PAGE_SHIFT, end >> PAGE_SHIFT, _READ_PAGES):
                count = min(_READ_PAGES, (end >> PAGE_SHIFT) - first)
                content = os.pread(descriptor, count * _ENTRY_BYTES, first * _ENTRY_BYTES)
                entries = array("Q", content)
                # Programs reserve hundreds of gigabytes in which there is nothing.
                is_alike = content[_ENTRY_BYTES:] == content[:-_ENTRY_BYTES]
                if is_alike and not any(map(_is_there, entries[:1])):
                    continue
                page = first
                for is_there, group in groupby(entries, _is_there):
                    pages = sum(1 for _ in group)
                    if is_there:
                        yield page << PAGE_SHIFT, (page + pages) << PAGE_SHIFT
                    page += pages
    finally:
        os.close(descriptor)


def _is_there(entry: int) -> bool:
    return entry & _PRESENT_OR_SWAPPED != 0
