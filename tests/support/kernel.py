"""The few system calls Python's os module lacks, for test support.

Lives here: one function a call, named as its man page. Must not live here:
policy. The package's own `migrate.syscalls` is not used, so that a fault in it
cannot hide in what tests it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

MNT_DETACH = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, subject: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)


def mount(
    source: str, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """Attach a file system, see mount(2)."""
    encoded = [None if text is None else text.encode() for text in (source, target, fstype, data)]
    result = _libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3])
    _check(result, f"mount {source} {target}")


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces, see unshare(2)."""
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(fd: int, flags: int) -> None:
    """Move the calling thread into the namespace that `fd` stands for, see setns(2)."""
    _check(_libc.setns(fd, flags), f"setns {flags:#x}")


def umount2(target: str, flags: int) -> None:
    """Detach a file system, see umount(2)."""
    _check(_libc.umount2(target.encode(), flags), f"umount2 {target}")


def make_root_read_only(writable: Iterable[str]) -> None:
    """Let nothing in this mount namespace change the machine's files.

    Args:
        writable: folders that stay as they are, with everything below them; other
            mounts, such as /dev and /run, are not touched either.
    """
    for folder in writable:
        mount(folder, folder, None, MS_BIND | MS_REC)
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY)
