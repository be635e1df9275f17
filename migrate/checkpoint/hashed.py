"""Which pages of a process were written, found out by reading them all.

Lives here: one process's digests. Must not live here: the kernel's own account
(`written`). May be imported by `checkpoint` only.

Where the kernel cannot tell, every page that is there is read at every pass, and
compared by its digest with what was sent. A gigabyte takes a few tenths of a second of
processor time, also while it is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence

from migrate.checkpoint.mappings import Span, lazy_mappings, pages_there
from migrate.checkpoint.page_batches import PAGE_BYTES, Run
from migrate.checkpoint.pages import PAGE_SHIFT

_CHUNK_SHIFT = 9
_CHUNK_PAGES = 1 << _CHUNK_SHIFT
_DIGEST_BYTES = 16


class Hashes:
    """The digests of what was sent of one process."""

    def __init__(self, pid: int) -> None:
        import xxhash

        self._pid = pid
        self._digest = xxhash.xxh3_128_digest
        self._chunks: dict[int, bytearray] = {}

    def written(self) -> list[Span]:
        """Return every page that is there.

        Raises:
            OSError: it has ended.
        """
        return list(pages_there(self._pid, lazy_mappings(self._pid)))

    def changed(
        self, runs: Sequence[Run], contents: memoryview
    ) -> tuple[list[Run], list[memoryview]]:
        """Return what differs from what was sent, and take it for sent.

        Args:
            runs: that were read.
            contents: of all of them, one behind the other.
        """
        found: list[Run] = []
        kept: list[memoryview] = []
        at = 0
        for address, pages in runs:
            first = address >> PAGE_SHIFT
            for page in range(first, first + pages):
                content = contents[at : at + PAGE_BYTES]
                at += PAGE_BYTES
                chunk = self._chunks.get(page >> _CHUNK_SHIFT)
                if chunk is None:
                    chunk = bytearray(_CHUNK_PAGES * _DIGEST_BYTES)
                    self._chunks[page >> _CHUNK_SHIFT] = chunk
                place = (page & (_CHUNK_PAGES - 1)) * _DIGEST_BYTES
                digest = self._digest(content)
                if chunk[place : place + _DIGEST_BYTES] == digest:
                    continue
                chunk[place : place + _DIGEST_BYTES] = digest
                kept.append(content)
                if found and found[-1][0] + (found[-1][1] << PAGE_SHIFT) == page << PAGE_SHIFT:
                    found[-1] = (found[-1][0], found[-1][1] + 1)
                else:
                    found.append((page << PAGE_SHIFT, 1))
        return found, kept

    def forget(self, start: int, end: int) -> None:
        """Take pages for never sent."""
        for page in range(start >> PAGE_SHIFT, end >> PAGE_SHIFT):
            chunk = self._chunks.get(page >> _CHUNK_SHIFT)
            if chunk is not None:
                place = (page & (_CHUNK_PAGES - 1)) * _DIGEST_BYTES
                chunk[place : place + _DIGEST_BYTES] = bytes(_DIGEST_BYTES)

    def close(self) -> None:
        """Do nothing: nothing is held."""
