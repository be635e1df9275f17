"""Which pages of a running process were written, as its kernel knows it.

Lives here: one process's write protection. Must not live here: which processes, what is
done with the pages (`memory_copy`). May be imported by `checkpoint` only.

Linux 6.7 write-protects the pages of a mapping for a userfaultfd and notes by itself
which were written since, without a word to anybody: a write costs one fault more, the
first time. One call finds the written pages and protects them again, a millisecond for
some thousand. Nothing is frozen for it. So:

    spans = protection.written()    a page that was never seen is a written one, and so
                                    is every page of a mapping that is new or was moved:
                                    it is not watched yet
    read them                       whatever is written from here on is found next time

A process that has called execve(2) has other memory, which the descriptor does not
watch: that is an error, and another `Protection` has to be made.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from migrate.checkpoint.injection import open_userfaultfd
from migrate.checkpoint.mappings import Span, lazy_mappings, pages_there
from migrate.errors import KernelError
from migrate.syscalls import memory

_FEATURES = memory.UFFD_FEATURE_WP_ASYNC | memory.UFFD_FEATURE_WP_UNPOPULATED
_SCAN = memory.PM_SCAN_WP_MATCHING | memory.PM_SCAN_CHECK_WPASYNC
_REGIONS = 16384  # a call's answer: 384 KiB


class Protection:
    """The watch over one process's memory; `close` it.

    Args:
        pid: it must run: a frozen one cannot be made to let itself be watched.
        open_it: has it open a userfaultfd: `Injector.open_userfaultfd`, where the caller
            may be killed meanwhile.

    Raises:
        CannotInject: the process does not let itself be watched.
        KernelError: the kernel is older than Linux 6.7.
    """

    def __init__(self, pid: int, open_it: Callable[[int], int] = open_userfaultfd) -> None:
        self._pid = pid
        self._is_new = True
        self._buffer = bytearray(_REGIONS * memory.PAGE_REGION.size)
        self._descriptor = open_it(pid)
        try:
            memory.userfaultfd_api(self._descriptor, _FEATURES)
        except BaseException:
            self.close()
            raise

    def written(self) -> list[Span]:
        """Return the pages written since the last call; some more, and some twice.

        The first call returns every page that is there and not of zeros only because
        nobody wrote it.

        Raises:
            KernelError: its memory is another one now, or gone.
            OSError: it has ended.
        """
        found: list[Span] = []
        pagemap = os.open(f"/proc/{self._pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for mapping in lazy_mappings(self._pid):
                if self._is_new:
                    self._watch(*mapping)
                if not self._scan(pagemap, *mapping, found):
                    # What the call had protected before it found that out it does not
                    # tell, so all of it counts as written.
                    if self._watch(*mapping):
                        self._scan(pagemap, *mapping, [])
                    found += pages_there(self._pid, [mapping])
        finally:
            os.close(pagemap)
        self._is_new = False
        return found

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _watch(self, start: int, end: int) -> bool:
        """Watch a mapping; return whether it can be.

        It cannot where it was unmapped or changed since it was listed; what is there
        now comes next time. Nor where the kernel may drop its pages, or keeps a shadow
        stack in it: those count as written every time.
        """
        try:
            memory.userfaultfd_register(
                self._descriptor, start, end, memory.UFFDIO_REGISTER_MODE_WP
            )
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def _scan(self, pagemap: int, start: int, end: int, found: list[Span]) -> bool:
        """Append what of a mapping was written, and protect it again.

        Returns:
            Whether it is watched as a whole.
        """
        region = memory.PAGE_REGION
        while start < end:
            try:
                count, start = memory.pagemap_scan(pagemap, start, end, self._buffer, flags=_SCAN)
            except KernelError as error:
                if error.errno != errno.EPERM:
                    raise
                return False
            with memoryview(self._buffer) as view:
                regions = region.iter_unpack(view[: count * region.size])
                found += [(each[0], each[1]) for each in regions]
        return True
