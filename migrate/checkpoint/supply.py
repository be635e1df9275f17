"""Where the pages come from that a keeper fills memory with.

Lives here: Supply, which reads them from files of this host, and Store, one such file.
Must not live here: which page is asked for, where it goes. `checkpoint.keeper` only.

In a process's file the page of address A is at offset A; what is not there is zeros.
A page that was filled is given back to the file system in steps of a large page, for
of less tmpfs gives back nothing where it took large ones.
"""

from __future__ import annotations

import errno
import mmap
import os

from migrate import syscalls
from migrate.syscalls import userfaultfd

# What is read and filled in one piece, and how long a fault waits at most: its making
# takes a tenth of a millisecond.
PIECE_BYTES = 256 << 10
# Takes the kernel about as long as a piece of data.
_ZEROS_BYTES = 4 << 20
_LARGE_PAGE_BYTES = 2 << 20
# Beyond every address of a process.
_END = 1 << 62


class Store:
    """The file of one process, and of those it forks.

    Args:
        descriptor: for reading and writing; becomes the store's.

    Attributes:
        users: processes that are not filled yet.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 1
        self._given_back = 0

    def data(self, offset: int, size: int) -> tuple[bool, int]:
        """Tell whether there is data at an offset, and for how many bytes that is so.

        A hole that is smaller than a piece is read as zeros with what is around it: to go
        around each page of zeros takes many times as long.
        """
        hole = self._seek(offset, os.SEEK_DATA) - offset
        if hole >= min(size, PIECE_BYTES):
            return False, min(size, hole)
        return True, size

    def give_back(self, end: int) -> None:
        """Free what lies before an offset; nobody will ask for it again."""
        end -= end % _LARGE_PAGE_BYTES
        if end > self._given_back:
            self._punch(self._given_back, end)
            self._given_back = end

    def give_all_back(self) -> None:
        """Free everything: nobody will ask again."""
        self._punch(0, _END)

    def _punch(self, start: int, end: int) -> None:
        """Free a range."""
        syscalls.fallocate(self.descriptor, syscalls.FALLOC_FL_PUNCH_HOLE, start, end - start)

    def _seek(self, offset: int, kind: int) -> int:
        """Return where data, or a hole, begins."""
        try:
            return os.lseek(self.descriptor, offset, kind)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return _END


class Supply:
    """Reads pages from files that are complete."""

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, PIECE_BYTES)
        self._view = memoryview(self._buffer)
        self._address = userfaultfd.address_of(self._buffer)

    def page(self, store: Store, offset: int, size: int) -> tuple[int, int]:
        """Return where in this process the content of a page is, until the next call.

        Args:
            offset: its address at the time of the dump.
            size: how much could be used from there.

        Returns:
            An address, or 0 for zeros, and for how many bytes that is so.
        """
        is_data, size = store.data(offset, size)
        if not is_data:
            return 0, min(size, _ZEROS_BYTES)
        piece = self._view[: min(size, PIECE_BYTES)]
        return self._address, os.preadv(store.descriptor, [piece], offset)
