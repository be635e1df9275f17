"""A set of pages of one address space.

Lives here: that. May be imported by `checkpoint` only.

One integer for each 2 MiB in which there is a page at all, a bit a page: a gigabyte
takes some ten kilobytes, and whole runs are added and looked up at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from migrate.checkpoint.mappings import Span
from migrate.checkpoint.pages import PAGE_SHIFT

_CHUNK_SHIFT = 9
_CHUNK_PAGES = 1 << _CHUNK_SHIFT


class PageSet:
    """Pages, named by their addresses."""

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}

    def add(self, start: int, end: int) -> None:
        """Put a span's pages in."""
        chunks = self._chunks
        for chunk, mask in _masks(start, end):
            chunks[chunk] = chunks.get(chunk, 0) | mask

    def discard(self, start: int, end: int) -> None:
        """Take a span's pages out."""
        for chunk, mask in _masks(start, end):
            if chunk in self._chunks:
                self._chunks[chunk] &= ~mask

    def within(self, start: int, end: int) -> Iterator[Span]:
        """Yield what of a span is in the set."""
        chunks = self._chunks
        return _joined((each, chunks.get(each, 0) & mask) for each, mask in _masks(start, end))

    def missing(self, start: int, end: int) -> Iterator[Span]:
        """Yield what of a span is not in the set."""
        chunks = self._chunks
        return _joined((each, mask & ~chunks.get(each, 0)) for each, mask in _masks(start, end))

    def outside(self, spans: Sequence[Span]) -> Iterator[Span]:
        """Yield what of the set is in none of these spans, which are in rising order."""
        ends = [end for _, end in spans]

        def left() -> Iterator[tuple[int, int]]:
            for chunk in sorted(self._chunks):
                bits = self._chunks[chunk]
                begin = chunk << _CHUNK_SHIFT << PAGE_SHIFT
                stop = (chunk + 1) << _CHUNK_SHIFT << PAGE_SHIFT
                at = bisect_right(ends, begin)
                while at < len(spans) and spans[at][0] < stop:
                    for _, mask in _masks(max(spans[at][0], begin), min(spans[at][1], stop)):
                        bits &= ~mask
                    at += 1
                yield chunk, bits

        return _joined(left())


def _masks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a span, each with the bits of its pages in it."""
    first, last = start >> PAGE_SHIFT, end >> PAGE_SHIFT
    while first < last:
        chunk = first >> _CHUNK_SHIFT
        stop = min(last, (chunk + 1) << _CHUNK_SHIFT)
        yield chunk, ((1 << (stop - first)) - 1) << (first & (_CHUNK_PAGES - 1))
        first = stop


def _joined(chunks: Iterator[tuple[int, int]]) -> Iterator[Span]:
    """Yield the pages of chunks in rising order, as the longest spans."""
    begin = end = -1
    for chunk, found in chunks:
        bits, page = found, chunk << _CHUNK_SHIFT
        while bits:
            gap = (bits & -bits).bit_length() - 1
            bits >>= gap
            page += gap
            length = (~bits & (bits + 1)).bit_length() - 1
            if page != end:
                if end > begin:
                    yield begin << PAGE_SHIFT, end << PAGE_SHIFT
                begin = page
            end = page + length
            bits >>= length
            page = end
    if end > begin:
        yield begin << PAGE_SHIFT, end << PAGE_SHIFT
