"""Which of a process's memory is still to be filled, whatever the process does to it.

Lives here: Pending, a set of runs, and how it follows munmap(2), madvise(2) and
mremap(2). Must not live here: descriptors, files. `checkpoint.keeper` only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Run:
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

    What is behind `_first` is gone: most runs are filled in order, and to take each out
    of the front of a list would cost more than to fill it.
    """

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs = sorted(runs, key=lambda run: run.start)
        self._starts = [run.start for run in self._runs]
        self._first = 0
        self._moved = sum(run.was_moved for run in self._runs)
        self.size = sum(run.size for run in self._runs)

    def __iter__(self) -> Iterator[Run]:
        """Yield the runs in the order of their addresses."""
        return iter(self._runs[self._first :])

    def __bool__(self) -> bool:
        return self._first < len(self._runs)

    def first(self) -> Run:
        """Return the run of the lowest address; there must be one."""
        return self._runs[self._first]

    def find(self, address: int) -> Run | None:
        """Return the run that has an address."""
        index = bisect_right(self._starts, address, self._first) - 1
        if index < self._first or self._runs[index].end <= address:
            return None
        return self._runs[index]

    def copy(self) -> Pending:
        """Return the same runs, for a process that was forked."""
        return Pending(self)

    def drop(self, start: int, end: int) -> None:
        """Take out what is in a range: it is filled, or shall be no more."""
        self._cut(start, end)

    def move(self, source: int, target: int, size: int) -> None:
        """Follow mremap(2). What was at the target is no more."""
        cut = self._cut(source, source + size)
        self._cut(target, target + size)
        for run in cut:
            moved = Run(run.start + target - source, run.end + target - source, run.offset)
            index = bisect_left(self._starts, moved.start, self._first)
            self._insert(index, moved)

    def lowest_offset(self) -> int:
        """Return where in the store the first page is that is needed; there must be one."""
        if self._moved:
            return min(run.offset for run in self)
        return self.first().start

    def _cut(self, start: int, end: int) -> list[Run]:
        """Take out what is in a range, and return it."""
        low = bisect_right(self._starts, start, self._first) - 1
        if low < self._first or self._runs[low].end <= start:
            low += 1
        high = bisect_left(self._starts, end, low)
        if low >= high:
            return []
        met = self._runs[low:high]
        left = []
        if met[0].start < start:
            left.append(met[0].part(met[0].start, start))
        if met[-1].end > end:
            left.append(met[-1].part(end, met[-1].end))
        cut = [run.part(start, end) for run in met]
        self.size -= sum(run.size for run in cut)
        self._moved += sum(run.was_moved for run in left) - sum(run.was_moved for run in met)
        if low == self._first and len(left) <= 1:
            self._first = high - len(left)
            self._runs[self._first : high] = left
            self._starts[self._first : high] = [run.start for run in left]
        else:
            self._runs[low:high] = left
            self._starts[low:high] = [run.start for run in left]
        return cut

    def _insert(self, index: int, run: Run) -> None:
        """Put a run where no other is."""
        self._runs.insert(index, run)
        self._starts.insert(index, run.start)
        self.size += run.size
        self._moved += run.was_moved
