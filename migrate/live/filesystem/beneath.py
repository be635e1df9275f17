"""Opening what lies beneath a directory, and nothing else.

Lives here: opening by openat2 so that no symbolic link, no `..` and no mount
point leads out of a tree, and the removal of a subtree under the same rule. Must
not live here: what is done with the descriptors. `migrate.live.filesystem` only.

A container can exchange any of its files for a symbolic link at any moment, and
a peer can name any path it likes: a path is resolved once, by the kernel, and
from then on only its descriptor is used.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Self

from migrate import syscalls
from migrate.errors import KernelError

_RESOLVE = (
    syscalls.RESOLVE_BENEATH
    | syscalls.RESOLVE_NO_SYMLINKS
    | syscalls.RESOLVE_NO_MAGICLINKS
    | syscalls.RESOLVE_NO_XDEV
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# Below PATH_MAX (4096, its NUL included): longer paths are walked in pieces.
_PIECE_BYTES = 4000


def open_beneath(root_fd: int, path: str, flags: int, *, mode: int = 0) -> int:
    """Open `path` below `root_fd`.

    Args:
        root_fd: descriptor of the directory that must not be left.
        path: relative, of any length; empty for the directory itself.
        flags: O_* bits for the last component.
        mode: permission bits, with O_CREAT.

    Raises:
        OSError: EXDEV for a path that leaves the directory or crosses a mount
            point, ELOOP for one with a symbolic link in it, and what open(2) has.
    """
    held: list[int] = []
    try:
        start = root_fd
        while len(path) * 4 > _PIECE_BYTES and len(os.fsencode(path)) > _PIECE_BYTES:
            cut = path.rindex("/", 0, _PIECE_BYTES // 4)
            start = _openat2(start, path[:cut], os.O_PATH | os.O_DIRECTORY)
            held.append(start)
            path = path[cut + 1 :]
        return _openat2(start, path or ".", flags, mode)
    finally:
        for fd in held:
            os.close(fd)


def _openat2(dirfd: int, path: str, flags: int, mode: int = 0) -> int:
    try:
        return syscalls.openat2(dirfd, path, flags, mode=mode, resolve=_RESOLVE)
    except KernelError as error:
        # Every other call on these trees comes from `os`: one exception for all.
        raise OSError(error.errno, os.strerror(error.errno), path) from None


def open_directory(root_fd: int, path: str) -> int:
    """Open a directory below `root_fd` for reading; see `open_beneath`."""
    return open_beneath(root_fd, path, _DIRECTORY)


def open_regular(directory_fd: int, name: str, flags: int) -> int:
    """Open a regular file of a directory without ever opening anything else.

    Opening a FIFO may block and opening a device may act, so what the name means
    is looked at first, by a descriptor that does neither.

    Args:
        directory_fd: descriptor of the directory.
        name: a single component.
        flags: O_* bits.

    Raises:
        OSError: EXDEV for a mount point, EINVAL where it is not a regular file.
    """
    path_fd = _openat2(directory_fd, name, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(path_fd).st_mode):
            raise OSError(22, "not a regular file", name)
        return os.open(f"/proc/self/fd/{path_fd}", flags | os.O_CLOEXEC)
    finally:
        os.close(path_fd)


def remove(directory_fd: int, name: str) -> None:
    """Remove a file or a whole subtree, but nothing that is mounted there.

    Raises:
        OSError: EXDEV or EBUSY where something is mounted in it.
    """
    try:
        os.unlink(name, dir_fd=directory_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        _remove_subtree(directory_fd, name)


def _remove_subtree(directory_fd: int, name: str) -> None:
    # A directory is left to the second visit, when what was in it is gone.
    pending = [(name, False)]
    while pending:
        path, emptied = pending.pop()
        if emptied:
            with_parent(directory_fd, path, _remove_directory)
            continue
        pending.append((path, True))
        fd = open_beneath(directory_fd, path, _DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for child, is_directory in listed:
                if is_directory:
                    pending.append((f"{path}/{child}", False))
                else:
                    os.unlink(child, dir_fd=fd)
        finally:
            os.close(fd)


def _remove_directory(parent_fd: int, name: str) -> None:
    os.rmdir(name, dir_fd=parent_fd)


def with_parent(root_fd: int, path: str, act: Callable[[int, str], None]) -> None:
    """Call `act(parent_fd, name)` for the last component of a path below `root_fd`."""
    parent, slash, name = path.rpartition("/")
    if not slash:
        act(root_fd, name)
        return
    parent_fd = open_directory(root_fd, parent)
    try:
        act(parent_fd, name)
    finally:
        os.close(parent_fd)


class OpenDirectories:
    """The descriptors of the directories used last, so that each is opened once.

    Args:
        root_fd: descriptor of the tree's root; stays the caller's.
        path_of: gives a directory's path below the root by its id.
    """

    _KEPT = 64

    def __init__(self, root_fd: int, path_of: Callable[[int], str]) -> None:
        self._root_fd = root_fd
        self._path_of = path_of
        self._open: OrderedDict[int, int] = OrderedDict()

    def fd(self, directory: int) -> int:
        """Return the directory's descriptor, valid until 63 others were asked for.

        Raises:
            OSError: as `open_beneath`.
        """
        if directory == 0:
            return self._root_fd
        fd = self._open.get(directory)
        if fd is not None:
            self._open.move_to_end(directory)
            return fd
        fd = open_directory(self._root_fd, self._path_of(directory))
        self._open[directory] = fd
        if len(self._open) > self._KEPT:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def forget(self, directory: int) -> None:
        """Close one, where it is open: it is about to be removed."""
        fd = self._open.pop(directory, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close them all."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
