"""Letting a restored thread sleep on.

Lives here: the one change made to CRIU's images. Must not live here: when it is made
(`dump`), those that run on where they are (`letting_go`). May be imported by `checkpoint` only.

A thread that is frozen in nanosleep(2), clock_nanosleep(2) or poll(2) goes on by
restart_syscall(2), with what is left of its time, and never learns of it. That is state
in the kernel and not in an image, so a restored thread gets EINTR (compel,
"Will restore %d with interrupted system call"), without a signal that would explain it:
some programs end (busybox 1.37's sleep). So the image is made to call again, as CRIU
itself does for calls the kernel restarts:

    nanosleep           with what was left, where the caller had that written over what
                        it asked; else EINTR stays, which says so
    poll                with its whole timeout

A thread with a signal to be handled is left alone: EINTR is then what it must get.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

from migrate.checkpoint.images import ImageDirectory

_NR_POLL = 7
_NR_NANOSLEEP = 35
_NR_CLOCK_NANOSLEEP = 230
SYSCALL_INSTRUCTION_BYTES = 2
_EINTR = (-4) & (1 << 64) - 1
_MACHINE_X86_64 = 1
_MODE_NATIVE = 1
_HEAD = struct.Struct("<III")  # two magics, and the size of the one message


def preload() -> type[Any]:
    """Return the message class, loaded before anything is frozen."""
    from pycriu.images import core_pb2

    message: type[Any] = core_pb2.core_entry
    return message


def let_sleep_on(images: ImageDirectory, message: type[Any]) -> None:
    """Make threads that were interrupted in a sleep go on with it.

    Args:
        message: what `preload` returned.
    """
    for name in images.names():
        if name.startswith("core-"):
            content = images.read(name)
            changed = _restarted(content, message)
            if changed is not None:
                os.unlink(name, dir_fd=images.descriptor)
                images.write(name, changed)


def _restarted(content: bytes, message: type[Any]) -> bytes | None:
    """Return the image of a thread that shall call again, None for any other."""
    first, second, size = _HEAD.unpack_from(content)
    core = message.FromString(content[_HEAD.size : _HEAD.size + size])
    if core.mtype != _MACHINE_X86_64 or _has_signals(core):
        return None
    registers = core.thread_info.gpregs
    if registers.ax != _EINTR or registers.mode not in (0, _MODE_NATIVE):
        return None
    arguments = (registers.di, registers.si, registers.dx, registers.r10)
    if not can_go_on(registers.orig_ax, arguments):
        return None
    registers.ax = registers.orig_ax
    registers.ip -= SYSCALL_INSTRUCTION_BYTES
    encoded: bytes = core.SerializeToString()
    return _HEAD.pack(first, second, len(encoded)) + encoded


def can_go_on(number: int, arguments: Sequence[int]) -> bool:
    """Tell whether making a call again means the same as going on with it.

    Args:
        number: of the system call, x86-64.
        arguments: its first four at least.
    """
    if number == _NR_NANOSLEEP:
        return arguments[0] == arguments[1]
    if number == _NR_CLOCK_NANOSLEEP:
        return arguments[2] == arguments[3]
    return number == _NR_POLL


def _has_signals(core: Any) -> bool:
    """Tell whether a signal waits for this thread or its process."""
    queues = [core.thread_core.signals_p] if core.HasField("thread_core") else []
    if core.HasField("tc"):
        queues.append(core.tc.signals_s)
    return any(len(queue.signals) for queue in queues)
