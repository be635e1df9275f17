"""Memory on its way while its processes run: batches of pages, as bytes.

Lives here: the format, both directions. Must not live here: where the pages come from
(`memory_copy`), where they go (`address_store`). May be imported by `checkpoint` and
`live`.

A stream is batches, one behind the other, each a head, its runs of pages, and the
contents of those that are not all zeros:

    head    kind, number of runs, process (its number inside the container)
    run     first address, number of pages; the address is odd where all are zeros

    PAGES   what is sent again replaces what was sent before
    FORGET  everything that was sent of this process is of no use: it has other memory
    END     nothing follows
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from migrate.checkpoint.pages import PAGE_SHIFT
from migrate.errors import ImageError

HEAD = struct.Struct("<III")
RUN = struct.Struct("<QI")
PAGES, FORGET, END = 1, 2, 3
MOST_RUNS = 4096
MOST_BYTES = 1 << 20
IS_ZERO = 1

PAGE_BYTES = 1 << PAGE_SHIFT
_ZERO_PAGE = bytes(PAGE_BYTES)
_PAGE_WORDS = PAGE_BYTES // 8

Run = tuple[int, int]
"""Address, with IS_ZERO where all of it is zeros, and number of pages."""


def encode(kind: int, process: int, runs: Sequence[Run] = ()) -> bytes:
    """Return a batch up to where its contents follow."""
    return HEAD.pack(kind, len(runs), process) + b"".join(RUN.pack(*run) for run in runs)


def without_zeros(runs: Sequence[Run], contents: memoryview) -> tuple[list[Run], list[memoryview]]:
    """Return runs with those of zeros marked, and what is left of their contents.

    Args:
        runs: none of them marked.
        contents: of all of them, one behind the other.
    """
    # The first word of every page at once: a page is looked at whole only if it is zero.
    firsts = contents.cast("Q")[::_PAGE_WORDS].tolist()
    zeros = [
        index
        for index, word in enumerate(firsts)
        if not word
        # Bytes are compared as a whole, views one byte after the other.
        and contents[index << PAGE_SHIFT : (index + 1) << PAGE_SHIFT].tobytes() == _ZERO_PAGE
    ]
    if not zeros:
        return list(runs), [contents]
    marked: list[Run] = []
    kept: list[memoryview] = []
    waiting = iter([*zeros, -1])
    zero = next(waiting)
    begin = 0  # the first page of the run, among all of them
    for address, pages in runs:
        page, end = begin, begin + pages
        while page < end:
            place = address + ((page - begin) << PAGE_SHIFT)
            if zero == page:
                stop = page
                while zero == stop < end:
                    zero, stop = next(waiting), stop + 1
                marked.append((place | IS_ZERO, stop - page))
            else:
                stop = zero if 0 <= zero < end else end
                marked.append((place, stop - page))
                kept.append(contents[page << PAGE_SHIFT : stop << PAGE_SHIFT])
            page = stop
        begin = end
    return marked, kept


class Batch:
    """One batch that has arrived whole.

    Attributes:
        kind: PAGES, FORGET or END.
        process: its number inside the container.
        runs: what it has.
        contents: of the runs that are not all zeros.
    """

    __slots__ = ("contents", "kind", "process", "runs")

    def __init__(self, kind: int, process: int, runs: list[Run], contents: memoryview) -> None:
        self.kind = kind
        self.process = process
        self.runs = runs
        self.contents = contents


class Decoder:
    """Cuts a stream into batches, wherever it was cut on its way."""

    def __init__(self) -> None:
        self._left = bytearray()
        self._wanted = HEAD.size

    @property
    def is_between(self) -> bool:
        """Whether nothing of a batch waits for its rest."""
        return not self._left

    def feed(self, chunk: bytes | bytearray | memoryview) -> Iterator[Batch]:
        """Yield the batches that a chunk completes; each is to be used before the next.

        Raises:
            ImageError: it is no such stream.
        """
        view = memoryview(chunk)
        if self._left:
            self._left += view
            if len(self._left) < self._wanted:
                return
            view = memoryview(bytes(self._left))
            self._left = bytearray()
        at = 0
        while len(view) - at >= HEAD.size:
            size, batch = _decode(view[at:])
            if batch is None:
                self._wanted = size
                break
            yield batch
            at += size
        else:
            self._wanted = HEAD.size
        self._left += view[at:]


def _decode(view: memoryview) -> tuple[int, Batch | None]:
    """Return the size of the batch that begins here, as far as it is known; and the batch."""
    kind, count, process = HEAD.unpack_from(view)
    if kind not in (PAGES, FORGET, END) or count > MOST_RUNS or (count and kind != PAGES):
        raise ImageError(f"memory stream has an unknown batch of kind {kind} with {count} runs")
    begin = HEAD.size + count * RUN.size
    if len(view) < begin:
        return begin, None
    runs = list(RUN.iter_unpack(view[HEAD.size : begin]))
    size = 0
    for address, pages in runs:
        if address % PAGE_BYTES > IS_ZERO or address + (pages << PAGE_SHIFT) >= 1 << 63:
            raise ImageError(f"memory stream has pages at {address:#x}, which is no page")
        if pages << PAGE_SHIFT > MOST_BYTES:
            raise ImageError(f"memory stream has {pages} pages in one run, which is too many")
        size += 0 if address & IS_ZERO else pages << PAGE_SHIFT
    if size > MOST_BYTES:
        raise ImageError(f"memory stream has a batch of {size} bytes, more than {MOST_BYTES}")
    if len(view) < begin + size:
        return begin + size, None
    return begin + size, Batch(kind, process, runs, view[begin : begin + size])
