"""What happened to the memory that a keeper fills, so that another can take over.

Lives here: the journal, a memory file that the keeper shares with its parent. Must not
live here: what follows from an entry (`keeper`). `checkpoint.keeper` and
`checkpoint.keeping` only.

An entry is the number of a process and a message of the kernel's (`struct uffd_msg`),
read into its place in the journal by the kernel itself: a process that moves, unmaps or
forks its memory goes on as soon as its message is read, so a keeper that is killed
between the read and a note of it would leave no trace of what it alone knew. What the
keeper did is written in the same form. An entry counts once its event is not 0.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from migrate.errors import CriuError
from migrate.syscalls import userfaultfd
from migrate.syscalls.userfaultfd import MESSAGE

# Not one of the kernel's: a range is filled.
FILLED = 1
# Room for 26 million entries. Only what is written to takes memory.
JOURNAL_BYTES = 1 << 30

_PROCESS = struct.Struct("=Q")
_ARGUMENTS = struct.Struct("=QQQ")
_MESSAGE_AT = _PROCESS.size
_ENTRY_BYTES = _PROCESS.size + MESSAGE.size
_LASTING = frozenset(
    {
        FILLED,
        userfaultfd.UFFD_EVENT_FORK,
        userfaultfd.UFFD_EVENT_REMAP,
        userfaultfd.UFFD_EVENT_REMOVE,
        userfaultfd.UFFD_EVENT_UNMAP,
    }
)


class Entry(NamedTuple):
    """One thing that happened; what the words are depends on the event."""

    process: int
    event: int
    first: int
    second: int
    third: int


def make_journal() -> int:
    """Return the descriptor of a new journal."""
    descriptor = os.memfd_create("migrate-keeper", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, JOURNAL_BYTES)
    return descriptor


class Journal:
    """A journal, read from its beginning and then written at its end.

    Args:
        descriptor: as `make_journal` made it; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, JOURNAL_BYTES)
        self._view = memoryview(self._map)
        self._at = 0

    def entries(self) -> Iterator[Entry]:
        """Yield what is written already; the next is written behind it."""
        while self._map[self._at + _MESSAGE_AT] in _LASTING:
            yield self._entry()
            self._advance()

    def read(self, process: int, descriptor: int) -> Entry | None:
        """Return the next message of a userfaultfd, noted already; None if there is none.

        A fault is not kept: those who wait are woken by the next keeper, and ask again.
        """
        _PROCESS.pack_into(self._map, self._at, process)
        place = self._view[self._at + _MESSAGE_AT : self._at + _ENTRY_BYTES]
        try:
            size = os.readv(descriptor, [place])
        except BlockingIOError:
            return None
        if size == 0:
            return None
        entry = self._entry()
        if entry.event in _LASTING:
            self._advance()
        return entry

    def filled(self, process: int, start: int, end: int) -> None:
        """Note that a range is filled."""
        _PROCESS.pack_into(self._map, self._at, process)
        _ARGUMENTS.pack_into(self._map, self._at + _MESSAGE_AT + 8, start, end, 0)
        self._map[self._at + _MESSAGE_AT] = FILLED
        self._advance()

    def _entry(self) -> Entry:
        """Return the entry at this place."""
        (process,) = _PROCESS.unpack_from(self._map, self._at)
        return Entry(process, *MESSAGE.unpack_from(self._map, self._at + _MESSAGE_AT))

    def _advance(self) -> None:
        """Go on to the next place."""
        self._at += _ENTRY_BYTES
        if self._at + _ENTRY_BYTES > JOURNAL_BYTES:
            raise CriuError("journal of the memory that is being filled is full")
