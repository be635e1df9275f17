"""Descriptors, paths and sockets.

Lives here: one function a call, named as its man page. Imported through
`migrate.syscalls`.
"""

from __future__ import annotations

import os
import sys
from _ctypes import get_errno

from migrate.syscalls.call import Int, Long, call, fail, function, syscall, to_c
from migrate.syscalls.constants import (
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_SYMLINK_NOFOLLOW,
    STATX_ATTR_MOUNT_ROOT,
    STATX_MNT_ID,
)

# The same number on every architecture.
_CLOSE_RANGE = 436
_OPENAT2 = 437

# Older than the common numbers: x86-64, and what the others took over from arm64.
_IS_X86 = os.uname().machine == "x86_64"
_GETCWD = 79 if _IS_X86 else 17

_fallocate = function("fallocate")
_fstatfs = function("fstatfs")
_getsockopt = function("getsockopt")
_inotify_add_watch = function("inotify_add_watch")
_inotify_init1 = function("inotify_init1")
_open_by_handle_at = function("open_by_handle_at")
_statx = function("statx")
_syncfs = function("syncfs")


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close, or mark close-on-exec, all descriptors of a range, see close_range(2).

    Args:
        first: lowest descriptor.
        last: highest descriptor, included.
        flags: 0 or CLOSE_RANGE_CLOEXEC (Linux 5.11).
    """
    call(syscall, "close_range", first, _CLOSE_RANGE, first, last, flags)


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Change what a part of a file occupies, see fallocate(2).

    Args:
        mode: FALLOC_FL_*; PUNCH_HOLE keeps the file's size.
        offset: first byte.
        size: bytes from there.

    Raises:
        KernelError: EOPNOTSUPP where the file system cannot.
    """
    call(_fallocate, "fallocate", fd, Int(fd), Int(mode), offset, size)


def fstatfs(fd: int) -> int:
    """The file system's magic number (`f_type`), see fstatfs(2)."""
    buffer = bytearray(256)
    call(_fstatfs, "fstatfs", fd, Int(fd), buffer)
    return int.from_bytes(buffer[:8], sys.byteorder)


def getcwd() -> bytes:
    """The working directory as the kernel names it, see getcwd(2).

    Not os.getcwd: glibc hides the kernel's "(unreachable)" prefix behind a
    search of its own.
    """
    buffer = bytearray(4096)
    size = call(syscall, "getcwd", "", _GETCWD, buffer, len(buffer))
    return bytes(buffer[: size - 1])


def getsockopt(fd: int, level: int, option: int, asked: bytes) -> bytes:
    """An option whose buffer also says what is asked for, see getsockopt(2).

    Python's own passes an empty buffer; xtables wants a table's name in it.
    """
    buffer = bytearray(asked)
    length = bytearray(len(asked).to_bytes(4, sys.byteorder))
    subject = (Int(fd), Int(level), Int(option), buffer, length)
    call(_getsockopt, "getsockopt", option, *subject)
    return bytes(buffer)


def inotify_add_watch(fd: int, path: str | bytes, mask: int) -> int:
    """Watch a path; the number its events will have, see inotify_add_watch(2).

    Raises:
        KernelError: ENOSPC where the user has no watches left.
    """
    return call(_inotify_add_watch, "inotify_add_watch", path, Int(fd), path, mask)


def inotify_init1() -> int:
    """A descriptor of events, close-on-exec and non-blocking, see inotify_init1(2).

    Raises:
        KernelError: EMFILE where the user has no instances left.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    return call(_inotify_init1, "inotify_init1", "", Int(flags))


def open_by_handle_at(mount_fd: int, kind: int, handle: bytes, flags: int) -> int:
    """Open a file by its file system's own name for it, see open_by_handle_at(2).

    Args:
        mount_fd: of anything in that file system.
        kind: of the handle.
        handle: as name_to_handle_at(2), or /proc/PID/fdinfo, tells it.
        flags: as of open(2).

    Raises:
        KernelError: ESTALE where there is no such file, or the file system opens none so.
    """
    wanted = len(handle).to_bytes(4, sys.byteorder) + kind.to_bytes(4, sys.byteorder) + handle
    return call(_open_by_handle_at, "open_by_handle_at", mount_fd, mount_fd, to_c(wanted), flags)


def openat2(dirfd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open a path under restrictions on its resolution, see openat2(2).

    Args:
        dirfd: descriptor the path starts from.
        path: relative to dirfd; for RESOLVE_IN_ROOT absolute ones too.
        flags: O_* bits; O_CLOEXEC is always added.
        mode: permission bits, only with O_CREAT or O_TMPFILE.
        resolve: RESOLVE_* bits.

    Raises:
        KernelError: EXDEV where the path leaves dirfd, ELOOP where it meets a
            symbolic or magic link that resolve refuses.
    """
    order = sys.byteorder
    how = b"".join(v.to_bytes(8, order) for v in (flags | os.O_CLOEXEC, mode, resolve))
    while True:
        result: int = syscall(Long(_OPENAT2), Long(dirfd), to_c(path), how, Long(24))
        if result >= 0:
            return result
        # EAGAIN: a rename anywhere raced the walk; EINTR: a signal did.
        if get_errno() not in {11, 4}:
            fail("openat2", path)


def statx_mount(dirfd: int, path: str | bytes = b"") -> tuple[int, bool]:
    """The mount a file is on, and whether the file is its root, see statx(2).

    Args:
        dirfd: descriptor the path starts from.
        path: relative path; empty for dirfd itself. Links are not followed.
    """
    buffer = bytearray(256)
    flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (0 if path else AT_EMPTY_PATH)
    call(_statx, "statx", path or dirfd, Int(dirfd), path, flags, STATX_MNT_ID, buffer)
    attributes = int.from_bytes(buffer[8:16], sys.byteorder)
    mount_id = int.from_bytes(buffer[144:152], sys.byteorder)
    return mount_id, bool(attributes & STATX_ATTR_MOUNT_ROOT)


def syncfs(fd: int) -> None:
    """Write out what was written to the file system of a descriptor, see syncfs(2).

    Raises:
        KernelError: EIO, ENOSPC and others where it could not be written.
    """
    call(_syncfs, "syncfs", fd, Int(fd))
