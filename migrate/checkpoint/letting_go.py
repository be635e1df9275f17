"""Letting go of a container that CRIU had in its hands.

Lives here: the thaw after a dump that was given up, or that left the container running.
Must not live here: when that is (`fence`, `live`). May be imported by `checkpoint` and
`live`.

A frozen thread that slept goes on by restart_syscall(2). CRIU's parasite leaves that
thread by sigreturn(2), after which the kernel knows of nothing to restart, and EINTR
is answered to a program that got no signal; some end then (busybox 1.37's sleep). So such a
thread is stopped by ptrace once more, on its way out of the freezer, and made to call
again, as `sleepers` does for a restored one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections.abc import Iterator, Mapping

from migrate import syscalls
from migrate.checkpoint import procfs, sleepers
from migrate.errors import KernelError
from migrate.runtime import cgroup

_PTRACE_GETREGS = 12
_PTRACE_SETREGS = 13
_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_EVENT_STOP = 128
_WALL = 0x40000000
# EINTR, which CRIU writes over what the kernel had there: ERESTART_RESTARTBLOCK.
_INTERRUPTED = frozenset(error & (1 << 64) - 1 for error in (-4, -516))
_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.0005
# struct user_regs_struct of x86-64: 27 words; the places of the three that matter.
_REGISTERS = struct.Struct("<27Q")
_AX, _ORIG_AX, _IP = 10, 15, 16


def thaw(paths: Mapping[str, str]) -> None:
    """Let a container's tasks run on, those that slept asleep.

    Args:
        paths: its control groups; frozen, and nobody traces its tasks any more.
    """
    caught = [thread for thread in _sleeping(paths) if _catch(thread)]
    cgroup.thaw(paths)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for thread in caught:
        _send_back(thread, deadline)


def _sleeping(paths: Mapping[str, str]) -> Iterator[int]:
    """Yield the threads that a restarted call would help; x86-64 only, elsewhere none."""
    if os.uname().machine != "x86_64":
        return
    for pid in cgroup.procs(paths):
        with contextlib.suppress(OSError):
            for thread in map(int, os.listdir(f"/proc/{pid}/task")):
                with open(f"/proc/{pid}/task/{thread}/syscall", encoding="ascii") as file:
                    words = file.read().split()
                # NUMBER, six arguments, stack and instruction pointer; or one word.
                if len(words) == 9 and not _has_signals(thread):
                    arguments = tuple(int(word, 16) for word in words[1:7])
                    if sleepers.can_go_on(int(words[0]), arguments):
                        yield thread


def _has_signals(thread: int) -> bool:
    """Tell whether a signal waits for a thread: EINTR is then what it must get."""
    status = procfs.status(thread)
    return any(int(status[field], 16) for field in ("SigPnd", "ShdPnd"))


def _catch(thread: int) -> bool:
    """Make a frozen thread stop before its next instruction."""
    try:
        syscalls.ptrace(_PTRACE_SEIZE, thread)
        syscalls.ptrace(_PTRACE_INTERRUPT, thread)
    except KernelError:
        return False
    return True


def _send_back(thread: int, deadline: float) -> None:
    """Wait until a thread has stopped, mend its registers, and let go of it."""
    status = _stopped(thread, deadline)
    if status is None:
        return  # it has ended
    number = os.WSTOPSIG(status)
    is_event = status >> 16 == _PTRACE_EVENT_STOP
    with contextlib.suppress(KernelError):
        if is_event:
            _mend(thread)
    with contextlib.suppress(KernelError):
        syscalls.ptrace(_PTRACE_DETACH, thread, 0 if is_event else number)


def _stopped(thread: int, deadline: float) -> int | None:
    """Return a thread's wait status once it has stopped, None where it has ended."""
    while True:
        try:
            found, status = os.waitpid(thread, _WALL | os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return status if os.WIFSTOPPED(status) else None
        if time.monotonic() >= deadline:
            # Whatever holds it up: the end of this process ends the tracing.
            return _PTRACE_EVENT_STOP << 16 | signal.SIGTRAP << 8 | 0x7F
        time.sleep(_PAUSE_SECONDS)


def _mend(thread: int) -> None:
    """Make a call that was to be restarted be made again."""
    buffer = bytearray(_REGISTERS.size)
    syscalls.ptrace(_PTRACE_GETREGS, thread, buffer)
    registers = list(_REGISTERS.unpack(buffer))
    if registers[_AX] in _INTERRUPTED:
        registers[_AX] = registers[_ORIG_AX]
        registers[_IP] -= sleepers.SYSCALL_INSTRUCTION_BYTES
        syscalls.ptrace(_PTRACE_SETREGS, thread, bytearray(_REGISTERS.pack(*registers)))
