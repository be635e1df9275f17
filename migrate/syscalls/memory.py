"""Another process's memory: read, and watched for writes.

Lives here: one function a call, named as its man page. Not part of `migrate.syscalls`'
one door: only a migration needs it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from _ctypes import addressof

from migrate.errors import KernelError
from migrate.syscalls.call import Char, call, syscall

_IS_X86 = os.uname().machine == "x86_64"
_PROCESS_VM_READV = 310 if _IS_X86 else 270

# linux/fs.h, Linux 6.7
PM_SCAN_WP_MATCHING = 1 << 0
PM_SCAN_CHECK_WPASYNC = 1 << 1
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_PFNZERO = 1 << 5
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_SCAN = struct.Struct("=12Q")
_SCAN_BYTES = 96
_WALK_END = 4

# linux/userfaultfd.h
UFFD_USER_MODE_ONLY = 1
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFDIO_REGISTER_MODE_WP = 1 << 1
_UFFD_API = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00

PAGE_REGION = struct.Struct("=3Q")
"""struct page_region: where it begins, where it ends, what its pages are."""


def process_vm_readv(pid: int, buffer: bytearray, size: int, remote: bytes) -> int:
    """Read from another process's memory, see process_vm_readv(2).

    Args:
        buffer: gets what is read, from its beginning.
        size: how much of it may be used, in bytes.
        remote: struct iovec of each place there, one after the other; 1024 at most.

    Returns:
        How many bytes were read; fewer where a place is not there.

    Raises:
        KernelError: EPERM without CAP_SYS_PTRACE over it, ESRCH where it is gone, EFAULT
            where the first place is not there.
    """
    order = sys.byteorder
    address = addressof((Char * len(buffer)).from_buffer(buffer))
    local = address.to_bytes(8, order) + size.to_bytes(8, order)
    places = len(remote) // len(local)
    return call(
        syscall, "process_vm_readv", pid, _PROCESS_VM_READV, pid, local, 1, remote, places, 0
    )


def pagemap_scan(
    descriptor: int, start: int, end: int, buffer: bytearray, *, flags: int
) -> tuple[int, int]:
    """Find the pages that were written, see ioctl PAGEMAP_SCAN, Linux 6.7.

    Pages that are of zeros because nobody has written them are not found.

    Args:
        descriptor: of /proc/PID/pagemap.
        start: first address, a page's.
        end: where to stop, a page's.
        buffer: gets one `PAGE_REGION` after the other.
        flags: PM_SCAN_* bits.

    Returns:
        How many regions were found, and where the walk ended: before `end` where the
        buffer is full.

    Raises:
        KernelError: EPERM with PM_SCAN_CHECK_WPASYNC where a mapping is not watched;
            ENOTTY where the kernel is older.
    """
    vector = addressof((Char * len(buffer)).from_buffer(buffer))
    argument = bytearray(
        _SCAN.pack(
            _SCAN_BYTES,
            flags,
            start,
            end,
            0,
            vector,
            len(buffer) // PAGE_REGION.size,
            0,
            PAGE_IS_PFNZERO,  # inverted
            PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
            0,
            PAGE_IS_WRITTEN,
        )
    )
    try:
        found = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, argument, True)
    except OSError as error:
        raise KernelError("PAGEMAP_SCAN", f"{start:#x}-{end:#x}", error.errno or 0) from error
    return found, _SCAN.unpack(argument)[_WALK_END]


def userfaultfd_api(descriptor: int, features: int) -> None:
    """Make a userfaultfd ready to be used, see ioctl_userfaultfd(2), UFFDIO_API.

    Raises:
        KernelError: EINVAL where the kernel has not all of the features.
    """
    try:
        argument = bytearray(struct.pack("=3Q", _UFFD_API, features, 0))
        fcntl.ioctl(descriptor, _UFFDIO_API, argument, True)
    except OSError as error:
        raise KernelError("UFFDIO_API", f"{features:#x}", error.errno or 0) from error


def userfaultfd_register(descriptor: int, start: int, end: int, mode: int) -> None:
    """Watch mappings, see ioctl_userfaultfd(2), UFFDIO_REGISTER.

    Raises:
        KernelError: EINVAL where there is none, or one that cannot be watched; ENOMEM
            where the process is gone; EBUSY where another watches it.
    """
    try:
        argument = bytearray(struct.pack("=4Q", start, end - start, mode, 0))
        fcntl.ioctl(descriptor, _UFFDIO_REGISTER, argument, True)
    except OSError as error:
        raise KernelError("UFFDIO_REGISTER", f"{start:#x}-{end:#x}", error.errno or 0) from error
