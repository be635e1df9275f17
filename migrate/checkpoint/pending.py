"""Which of a process's memory is still to be filled, whatever the process does to it.

Lives here: Pending, a set of runs, and how it follows munmap(2), madvise(2) and
mremap(2). Must not live here: descriptors, files. `checkpoint.filling` and
`checkpoint.keeper` only.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import add
from typing import NamedTuple


class Run(NamedTuple):
    """A run of pages that are still to be filled.

    Attributes:
        start, end: where they are missing.
        offset: where in the store their content begins: the address at which the
            run was when the process was dumped.
    """

    start: int
    end: int
    offset: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start

    @property
    def was_moved(self) -> bool:
        """Whether the process has moved it since it was dumped."""
        return self.start != self.offset

    def part(self, start: int, end: int) -> Run:
        """Return what of it is in a range, which it must meet."""
        start, end = max(start, self.start), min(end, self.end)
        return Run(start, end, self.offset + start - self.start)


class Pending:
    """Runs that do not meet, by address.

    There may be one for every other page, so they are kept as numbers in three arrays.
    What is before `_first` is gone: most runs are filled in order, and to take each out
    of the front of an array would cost more than to fill it.

    Args:
        spans: address and size of each, one after the other.
    """

    def __init__(self, spans: array[int]) -> None:
        self._starts, sizes = spans[0::2], spans[1::2]
        if any(map(int.__gt__, self._starts, islice(self._starts, 1, None))):
            pairs = sorted(zip(self._starts, sizes, strict=True))
            self._starts = array("Q", [start for start, _ in pairs])
            sizes = array("Q", [size for _, size in pairs])
        self._ends = array("Q", map(add, self._starts, sizes))
        self._offsets = self._starts[:]
        self._first = 0
        self._moved = 0
        self.size = sum(sizes)

    def __iter__(self) -> Iterator[Run]:
        """Yield the runs in the order of their addresses."""
        return map(self._run, range(self._first, len(self._starts)))

    def __bool__(self) -> bool:
        return self._first < len(self._starts)

    def first(self) -> Run:
        """Return the run of the lowest address; there must be one."""
        return self._run(self._first)

    def find(self, address: int) -> Run | None:
        """Return the run that has an address."""
        index = bisect_right(self._starts, address, self._first) - 1
        if index < self._first or self._ends[index] <= address:
            return None
        return self._run(index)

    def copy(self) -> Pending:
        """Return the same runs, for a process that was forked."""
        copied = Pending(array("Q"))
        copied._starts = self._starts[self._first :]
        copied._ends = self._ends[self._first :]
        copied._offsets = self._offsets[self._first :]
        copied._moved = self._moved
        copied.size = self.size
        return copied

    def drop(self, start: int, end: int) -> None:
        """Take out what is in a range: it is filled, or shall be no more."""
        self._cut(start, end)

    def move(self, source: int, target: int, size: int) -> None:
        """Follow mremap(2). What was at the target is no more."""
        cut = self._cut(source, source + size)
        self._cut(target, target + size)
        away = target - source
        moved = [Run(run.start + away, run.end + away, run.offset) for run in cut]
        index = bisect_left(self._starts, target, self._first)
        self._replace(index, index, moved)

    def lowest_offset(self) -> int:
        """Return where in the store the first page is that is needed; there must be one."""
        if self._moved:
            return min(islice(self._offsets, self._first, None))
        return self._starts[self._first]

    def _run(self, index: int) -> Run:
        """Return one run."""
        return Run(self._starts[index], self._ends[index], self._offsets[index])

    def _cut(self, start: int, end: int) -> list[Run]:
        """Take out what is in a range, and return it."""
        low = bisect_right(self._starts, start, self._first) - 1
        if low < self._first or self._ends[low] <= start:
            low += 1
        high = bisect_left(self._starts, end, low)
        if low >= high:
            return []
        met = [self._run(index) for index in range(low, high)]
        left = []
        if met[0].start < start:
            left.append(met[0].part(met[0].start, start))
        if met[-1].end > end:
            left.append(met[-1].part(end, met[-1].end))
        self._replace(low, high, left)
        return [run.part(start, end) for run in met]

    def _replace(self, low: int, high: int, by: list[Run]) -> None:
        """Put runs in the place of others."""
        for index in range(low, high):
            run = self._run(index)
            self.size -= run.size
            self._moved -= run.was_moved
        for run in by:
            self.size += run.size
            self._moved += run.was_moved
        if low == self._first and len(by) <= high - low:
            low = self._first = high - len(by)
        self._starts[low:high] = array("Q", [run.start for run in by])
        self._ends[low:high] = array("Q", [run.end for run in by])
        self._offsets[low:high] = array("Q", [run.offset for run in by])
