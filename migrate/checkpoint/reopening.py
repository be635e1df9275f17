"""Letting files be opened again that CRIU would refuse to, or not set going again.

Lives here: the changes made to CRIU's image of open files. Must not live here: when
it is made (`dump`). May be imported by `checkpoint` only.

CRIU opens a file again with the flags its description has. Two of them say how a name
was to be looked up and mean nothing afterwards: O_NOFOLLOW, which makes the open of a
descriptor handed in (/proc/self/fd/N, a symbolic link) fail with ELOOP, and O_TMPFILE,
which would make another file. Python's `tempfile` opens with both, so many a container
has such a file as its standard output.

And it refuses a file whose size or mode is not what it was. For the container's files
that is right; but a log file of the host belongs to whoever restores, who gives
another, or /dev/null on another host.

A timer descriptor that goes off again and again, and has gone off unread, shows nothing
left until its next time: the read starts it again (fs/timerfd.c). CRIU takes that for a
timer that is not set, and it would never go off again. So a nanosecond is left.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from migrate.checkpoint.images import ImageDirectory

FILES = "files.img"
_MAGICS_BYTES = 8
_SIZE = struct.Struct("<I")
# __O_TMPFILE alone: O_TMPFILE has O_DIRECTORY in it, so that older kernels refuse it,
# and what the kernel keeps has both bits. Directories keep theirs.
_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY


def preload() -> type[Any]:
    """Return the message class, loaded before anything is frozen."""
    from pycriu.images import fdinfo_pb2

    message: type[Any] = fdinfo_pb2.file_entry
    return message


def let_reopen(images: ImageDirectory, message: type[Any]) -> None:
    """Make every regular file in the image of open files one that opens again.

    Args:
        message: what `preload` returned.
    """
    if FILES not in images.names():
        return
    content = images.read(FILES)
    changed = _reopenable(content, message)
    if changed != content:
        os.unlink(FILES, dir_fd=images.descriptor)
        images.write(FILES, changed)


def _reopenable(content: bytes, message: type[Any]) -> bytes:
    """Return the image with its files as they can be opened, and its timers set."""
    parts = [content[:_MAGICS_BYTES]]
    at = _MAGICS_BYTES
    while at < len(content):
        (size,) = _SIZE.unpack_from(content, at)
        end = at + _SIZE.size + size
        entry = message.FromString(content[at + _SIZE.size : end])
        if (entry.HasField("reg") and _changed(entry.reg)) or (
            entry.HasField("tfd") and _set_going(entry.tfd)
        ):
            encoded = entry.SerializeToString()
            parts += [_SIZE.pack(len(encoded)), encoded]
        else:
            parts.append(content[at:end])
        at = end
    return b"".join(parts)


def _changed(file: Any) -> bool:
    """Change one regular file where it has to be; tell whether it was."""
    flags = after_open(file.flags)
    if flags == file.flags and not file.ext:
        return False
    file.flags = flags
    if file.ext:  # outside the container, given by whoever restores
        file.ClearField("size")
        file.ClearField("mode")
    return True


def _set_going(timer: Any) -> bool:
    """Set a timer that went off unread and has an interval; tell whether it is one."""
    has_interval = timer.isec or timer.insec
    if not has_interval or not timer.ticks or timer.vsec or timer.vnsec:
        return False
    timer.vnsec = 1
    return True


def after_open(flags: int) -> int:
    """Return flags of open(2) without those that only say how a name is looked up."""
    if flags & _TMPFILE:
        flags &= ~os.O_TMPFILE
    return flags & ~os.O_NOFOLLOW
