"""userfaultfd(2): what a process does to its memory, and the pages that it waits for.

Lives here: one function an ioctl, named as in ioctl_userfaultfd(2), the message a
descriptor is read for. Must not live here:
which page goes where (`migrate.checkpoint.filling`). Imported by name, not through
`migrate.syscalls`: commands that have no use for it do not load it.
"""

from __future__ import annotations

import struct
from _ctypes import addressof

from migrate.errors import KernelError
from migrate.syscalls.call import Char, Int, call, function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmap import mmap

UFFD_EVENT_PAGEFAULT = 0x12
UFFD_EVENT_FORK = 0x13
UFFD_EVENT_REMAP = 0x14
UFFD_EVENT_REMOVE = 0x15
UFFD_EVENT_UNMAP = 0x16

# struct uffd_msg: the event, and three words that depend on it.
MESSAGE = struct.Struct("=B7xQQQ")

_COPY = 0xC028AA03
_ZEROPAGE = 0xC020AA04
_UNREGISTER = 0x8010AA01
_WAKE = 0x8010AA02
# struct uffdio_copy, uffdio_zeropage, uffdio_range
_COPY_ARGUMENT = struct.Struct("=QQQQq")
_ZEROPAGE_ARGUMENT = struct.Struct("=QQQq")
_RANGE = struct.Struct("=QQ")

_ioctl = function("ioctl")


def uffdio_copy(fd: int, address: int, source: int, size: int) -> int:
    """Put a copy of this process's memory where pages are missing, see ioctl_userfaultfd(2).

    Args:
        fd: a userfaultfd.
        address: where the pages are missing; the range must be in one mapping.
        source: address of the content in this process.
        size: in bytes, whole pages.

    Returns:
        How many bytes were put there, fewer than asked where something is in the way.

    Raises:
        KernelError: none was put there. EEXIST: the first page is there already; EAGAIN:
            an event is to be read first; ENOENT: no registered mapping has the whole
            range; ESRCH, before Linux 4.11 ENOSPC: the process is gone.
    """
    argument = bytearray(_COPY_ARGUMENT.pack(address, source, size, 0, 0))
    return _fill("UFFDIO_COPY", fd, _COPY, argument)


def uffdio_zeropage(fd: int, address: int, size: int) -> int:
    """Put zero pages where pages are missing; the rest is as `uffdio_copy`."""
    return _fill(
        "UFFDIO_ZEROPAGE", fd, _ZEROPAGE, bytearray(_ZEROPAGE_ARGUMENT.pack(address, size, 0, 0))
    )


def uffdio_unregister(fd: int, address: int, size: int) -> None:
    """Let the kernel resolve missing pages of a range again, see ioctl_userfaultfd(2).

    Raises:
        KernelError: EINVAL where a mapping cannot have been registered, ENOMEM where
            the process is gone.
    """
    _on_range("UFFDIO_UNREGISTER", fd, _UNREGISTER, address, size)


def uffdio_wake(fd: int, address: int, size: int) -> None:
    """Make all who wait for a page of a range look again, see ioctl_userfaultfd(2)."""
    _on_range("UFFDIO_WAKE", fd, _WAKE, address, size)


def address_of(buffer: bytearray | mmap) -> int:
    """The address of a buffer; it must neither move nor go while that is in use."""
    return addressof((Char * len(buffer)).from_buffer(buffer))


def _fill(name: str, fd: int, request: int, argument: bytearray) -> int:
    """Fill pages; how many bytes came about is the argument's last word."""
    try:
        call(_ioctl, name, fd, Int(fd), request, argument)
        errno = 0
    except KernelError as error:
        errno = error.errno
    filled = int.from_bytes(argument[-8:], "little", signed=True)
    if filled > 0:
        return filled
    raise KernelError(name, f"{int.from_bytes(argument[:8], 'little'):#x}", errno or -filled)


def _on_range(name: str, fd: int, request: int, address: int, size: int) -> None:
    """Call with a struct uffdio_range."""
    call(_ioctl, name, f"{address:#x}", Int(fd), request, bytearray(_RANGE.pack(address, size)))
