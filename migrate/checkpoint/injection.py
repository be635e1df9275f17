"""A userfaultfd of another process, made by that process itself.

Lives here: the one system call that is made in its name. Must not live here: what the
descriptor is for (`written`). May be imported by `checkpoint` only.

A userfaultfd watches the memory of whoever has made it, so the process has to make it.
Its threads are stopped by ptrace, one of them is sent through the `syscall` instruction
that every vDSO has, and gets the registers back which it had. That happens where it
would have handled a signal, so the kernel itself restarts the call it was in, if any,
and nothing in its memory is touched. The descriptor is taken over and closed there
before any thread runs again. x86-64 only; all of it takes about a millisecond.

Should this process be killed within that millisecond, the thread would run on with
wrong registers. CRIU has the same window at every dump, and a longer one.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time

from migrate import syscalls
from migrate.checkpoint import procfs
from migrate.errors import CriuError, KernelError
from migrate.syscalls import memory

_PTRACE_GETREGS, _PTRACE_SETREGS = 12, 13
_PTRACE_CONT, _PTRACE_DETACH, _PTRACE_SYSCALL = 7, 17, 24
_PTRACE_SEIZE, _PTRACE_INTERRUPT = 0x4206, 0x4207
_PTRACE_GETSIGMASK, _PTRACE_SETSIGMASK = 0x420A, 0x420B
_PTRACE_O_TRACESYSGOOD = 1
_PTRACE_O_SUSPEND_SECCOMP = 1 << 21
_EVENT_STOP = 128
_SYSCALL_STOP = 0x80 | 5  # with PTRACE_O_TRACESYSGOOD
_WALL = 0x40000000
_SIGNAL_SET_BYTES = 8

_REGISTERS = struct.Struct("<27Q")  # struct user_regs_struct
_AX, _DI, _ORIG_AX, _IP, _CS = 10, 14, 15, 16, 17
_CODE_SEGMENT_64 = 0x33
_NOWHERE = (1 << 64) - 1
_NR_CLOSE = 3
_NR_USERFAULTFD = 323
_SYSCALL_INSTRUCTION = b"\x0f\x05"

_PATIENCE_SECONDS = 0.5
_PAUSE_SECONDS = 0.0002
_ROUNDS = 10


class CannotInject(CriuError):
    """A process cannot be made to make the call; it runs on as before."""


def open_userfaultfd(pid: int) -> int:
    """Return a userfaultfd for the memory of a running process, close-on-exec.

    It watches accesses in user mode only, which needs no privilege.

    Raises:
        CannotInject: another processor, a program of 32 bits, no userfaultfd in the
            kernel, a tracer, no room for a descriptor, or it does not stop.
    """
    if os.uname().machine != "x86_64":
        raise CannotInject(f"process {pid}: not on this processor")
    found: list[int | BaseException] = []

    def work() -> None:
        # Tracing belongs to a thread: should anything go wrong, its end ends the tracing.
        try:
            found.append(_traced(pid))
        except BaseException as error:  # noqa: BLE001 - raised by who began the thread
            found.append(error)

    thread = threading.Thread(target=work, name="injection", daemon=True)
    thread.start()
    thread.join()
    result = found[0]
    if isinstance(result, int):
        return result
    if isinstance(result, KernelError | OSError):
        raise CannotInject(f"process {pid}: {result}") from result
    raise result


def _traced(pid: int) -> int:
    instruction = _find_instruction(pid)
    stopped: dict[int, int] = {}
    try:
        _stop_all(pid, stopped)
        thread = next((each for each, status in stopped.items() if _is_at_rest(status)), None)
        if thread is None:
            raise CannotInject(f"process {pid}: no thread of it can be made to call")
        return _make_and_take(pid, thread, instruction, stopped)
    finally:
        for each, status in stopped.items():
            number = 0 if _is_at_rest(status) else os.WSTOPSIG(status)
            with contextlib.suppress(KernelError):
                syscalls.ptrace(_PTRACE_DETACH, each, number)


def _find_instruction(pid: int) -> int:
    """Return the address of a system call instruction in a process's vDSO."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("[vdso]\n"):
                start, end = (int(word, 16) for word in line.split(" ", 1)[0].split("-"))
                size = end - start
                buffer = bytearray(size)
                memory.process_vm_readv(pid, buffer, size, struct.pack("=2Q", start, size))
                at = buffer.find(_SYSCALL_INSTRUCTION)
                if at >= 0:
                    return start + at
    raise CannotInject(f"process {pid}: it has no vDSO")


def _stop_all(pid: int, stopped: dict[int, int]) -> None:
    """Stop every thread, and those made meanwhile; fill in their wait statuses."""
    options = _PTRACE_O_TRACESYSGOOD
    if procfs.status(pid).get("Seccomp", "0") != "0":
        options |= _PTRACE_O_SUSPEND_SECCOMP  # its filter need not know of our call
    gone: set[int] = set()
    for _ in range(_ROUNDS):
        threads = set(map(int, os.listdir(f"/proc/{pid}/task"))) - stopped.keys() - gone
        if not threads:
            return
        for thread in threads:
            try:
                syscalls.ptrace(_PTRACE_SEIZE, thread, options)
            except KernelError:
                if _has_ended(pid, thread):
                    gone.add(thread)
                    continue
                raise
            syscalls.ptrace(_PTRACE_INTERRUPT, thread)
        for thread in threads - gone:
            status = _wait(thread)
            if status is None:
                gone.add(thread)
            else:
                stopped[thread] = status
    raise CannotInject(f"process {pid}: its threads multiply faster than they can be stopped")


def _has_ended(pid: int, thread: int) -> bool:
    """Tell whether a thread is gone, or a zombie that waits for the others."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"ZX"
    except OSError:
        return True


def _wait(thread: int) -> int | None:
    """Return a thread's wait status once it has stopped, None where it has ended."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            found, status = os.waitpid(thread, _WALL | os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return status if os.WIFSTOPPED(status) else None
        if time.monotonic() >= deadline:
            raise CannotInject(f"thread {thread} does not stop")
        time.sleep(_PAUSE_SECONDS)


def _is_at_rest(status: int) -> bool:
    """Tell whether a thread was stopped by us, not on its way to handle a signal."""
    return status >> 16 == _EVENT_STOP


def _make_and_take(pid: int, thread: int, instruction: int, stopped: dict[int, int]) -> int:
    """Have a stopped thread make the descriptor, take it over, and close it there."""
    saved = bytearray(_REGISTERS.size)
    syscalls.ptrace(_PTRACE_GETREGS, thread, saved)
    if _REGISTERS.unpack(saved)[_CS] != _CODE_SEGMENT_64:
        raise CannotInject(f"process {pid}: not a program of 64 bits")
    mask = bytearray(_SIGNAL_SET_BYTES)
    syscalls.ptrace(_PTRACE_GETSIGMASK, thread, mask, _SIGNAL_SET_BYTES)
    every = bytearray(b"\xff" * _SIGNAL_SET_BYTES)
    syscalls.ptrace(_PTRACE_SETSIGMASK, thread, every, _SIGNAL_SET_BYTES)
    try:
        flags = os.O_CLOEXEC | os.O_NONBLOCK | memory.UFFD_USER_MODE_ONLY
        number = _call(thread, saved, instruction, _NR_USERFAULTFD, flags)
        if number < 0:
            raise KernelError("userfaultfd", f"process {pid}", -number)
        try:
            pidfd = syscalls.pidfd_open(pid)
            try:
                return syscalls.pidfd_getfd(pidfd, number)
            finally:
                os.close(pidfd)
        finally:
            _call(thread, saved, instruction, _NR_CLOSE, number)
    finally:
        _return_to(thread, saved, stopped)
        syscalls.ptrace(_PTRACE_SETSIGMASK, thread, mask, _SIGNAL_SET_BYTES)


def _call(thread: int, saved: bytearray, instruction: int, number: int, argument: int) -> int:
    """Send a stopped thread through a system call; return what it answered."""
    registers = list(_REGISTERS.unpack(saved))
    registers[_AX], registers[_DI] = number, argument
    registers[_ORIG_AX] = _NOWHERE  # nothing is to be restarted on the way
    registers[_IP] = instruction
    syscalls.ptrace(_PTRACE_SETREGS, thread, bytearray(_REGISTERS.pack(*registers)))
    for _ in ("entry", "exit"):
        syscalls.ptrace(_PTRACE_SYSCALL, thread)
        status = _wait(thread)
        while status is not None and _is_at_rest(status):  # a group stop came in between
            syscalls.ptrace(_PTRACE_SYSCALL, thread)
            status = _wait(thread)
        if status is None or os.WSTOPSIG(status) != _SYSCALL_STOP:
            raise CannotInject(f"thread {thread} was ended")
    answer = bytearray(_REGISTERS.size)
    syscalls.ptrace(_PTRACE_GETREGS, thread, answer)
    value: int = _REGISTERS.unpack(answer)[_AX]
    return value - (1 << 64) if value >> 63 else value


def _return_to(thread: int, saved: bytearray, stopped: dict[int, int]) -> None:
    """Bring a thread back to where it was stopped, so that the kernel restarts its call.

    Registers alone do not do: a call is restarted on the way out of a stop like the
    first one, not of one at a system call.
    """
    syscalls.ptrace(_PTRACE_INTERRUPT, thread)
    syscalls.ptrace(_PTRACE_CONT, thread)
    status = _wait(thread)
    if status is None:
        del stopped[thread]
        raise CannotInject(f"thread {thread} was ended")
    stopped[thread] = status
    syscalls.ptrace(_PTRACE_SETREGS, thread, saved)
