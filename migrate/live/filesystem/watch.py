"""Which directories something happened in, as the kernel tells it.

Lives here: the watches and their events. Must not live here: what happened; that is
looked up (`inventory.py`). `migrate.live.filesystem` only.

A walk costs three microseconds a file, and the last one is paid while the container
stands still. Watched directories need no walk unless an event came. It is a hint, and
never more: where a watch cannot be had, where events were lost, on a file system that
another machine writes to, everything is walked as before.

What inotify(7) does not tell, and who takes care of it:

    a store through a mapping        `mapped.py`; and when it is gone, the file is
                                     closed for writing, and then compared by content
    asynchronous I/O (io_submit)     files that are open for writing: `mapped.py`
    a write by a name outside        files with more names than are in the tree are
                                     looked at each time
"""

from __future__ import annotations

import os
import struct

from migrate import syscalls
from migrate.errors import KernelError

_MASK = (
    syscalls.IN_MODIFY
    | syscalls.IN_ATTRIB
    | syscalls.IN_CLOSE_WRITE
    | syscalls.IN_MOVED_FROM
    | syscalls.IN_MOVED_TO
    | syscalls.IN_CREATE
    | syscalls.IN_DELETE
    | syscalls.IN_ONLYDIR
)
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name
_READ_BYTES = 1 << 18


# The container's own watches count against the same limit of the same user.
_SHARE = 4
_LIMIT = "/proc/sys/fs/inotify/max_user_watches"


def _most() -> int:
    try:
        with open(_LIMIT, encoding="ascii") as limit:
            return int(limit.read()) // _SHARE
    except (OSError, ValueError):
        return 0


class Watch:
    """Watches over directories, by id; `is_reliable` once something was lost is False."""

    def __init__(self) -> None:
        self.is_reliable = True
        self._directories: dict[int, int] = {}
        self._most = _most()
        self._dirty: set[int] = set()
        self._closed: set[tuple[int, str]] = set()
        try:
            self._fd = syscalls.inotify_init1()
        except KernelError:
            self._fd = -1
            self.is_reliable = False

    def add(self, directory: int, directory_fd: int) -> None:
        """Watch a directory from now on; what is listed afterwards cannot be missed."""
        if len(self._directories) >= self._most:
            self.is_reliable = False
        if self.is_reliable:
            try:
                path = f"/proc/self/fd/{directory_fd}"
                self._directories[syscalls.inotify_add_watch(self._fd, path, _MASK)] = directory
            except KernelError:
                self.is_reliable = False

    def gather(self) -> None:
        """Take in the events so far: the kernel keeps 16384, and then loses some."""
        while self.is_reliable:
            try:
                raw = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(raw):
                watch, mask, _, length = _EVENT.unpack_from(raw, at)
                at += _EVENT.size
                if mask & syscalls.IN_Q_OVERFLOW:
                    self.is_reliable = False
                directory = self._directories.get(watch)
                if directory is not None:
                    self._dirty.add(directory)
                    if mask & syscalls.IN_CLOSE_WRITE:
                        name = os.fsdecode(raw[at : at + length].rstrip(b"\0"))
                        self._closed.add((directory, name))
                at += length

    def take(self) -> tuple[set[int], set[tuple[int, str]]]:
        """Return directories with events, and files closed after writing, since the last call.

        A file is its directory's id and its name.
        """
        self.gather()
        taken = self._dirty, self._closed
        self._dirty, self._closed = set(), set()
        return taken

    def close(self) -> None:
        """Watch no longer."""
        self.is_reliable = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
