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
wrong registers: `injector` is a process that nobody has reason to kill. CRIU has the same
window at every dump, and a longer one.
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
_PTRACE_SETOPTIONS = 0x4200
_PTRACE_SEIZE, _PTRACE_INTERRUPT = 0x4206, 0x4207
_PTRACE_GETSIGMASK, _PTRACE_SETSIGMASK = 0x420A, 0x420B
_PTRACE_GET_RSEQ_CONFIGURATION = 0x420F  # Linux 5.13
_PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4210  # Linux 6.4
_PTRACE_O_TRACESYSGOOD = 1
_PTRACE_O_SUSPEND_SECCOMP = 1 << 21
_EVENT_STOP = 128
_SYSCALL_STOP = 0x80 | 5  # with PTRACE_O_TRACESYSGOOD
_WALL = 0x40000000
_SIGNAL_SET_BYTES = 8

_REGISTERS = struct.Struct("<27Q")  # struct user_regs_struct
_R10, _R8, _AX, _DX, _DI, _ORIG_AX, _IP, _CS = 7, 9, 10, 12, 14, 15, 16, 17
_CODE_SEGMENT_64 = 0x33
_NOWHERE = (1 << 64) - 1
_MINUS_ONE = (1 << 32) - 1
_EINTR, _ERESTARTNOHAND = (1 << 64) - 4, (1 << 64) - 514
# The waits that a stop ends by EINTR, see signal(7), and where each has its timeout.
_WAITS = {232: _R10, 281: _R10, 441: _R10, 128: _DX, 208: _R8, 65: None, 220: _R10}
_TIMEOUT_IS_A_NUMBER = (232, 281)  # epoll_wait, epoll_pwait; of the others a pointer
_RSEQ = struct.Struct("<QIIII")  # struct ptrace_rseq_configuration
_RSEQ_CS_OFFSET = 8
_RSEQ_CS = struct.Struct("<IIQQQ")  # version, flags, start, length, where it is aborted
_DISPATCH = struct.Struct("<4Q")  # struct ptrace_sud_config: its mode first
_NR_CLOSE = 3
_NR_USERFAULTFD = 323
_SYSCALL_INSTRUCTION = b"\x0f\x05"

_PATIENCE_SECONDS = 0.5
# Sent through a call it has wrong registers: it must not be let go before it is back,
# however long it waits for a processor, or for its control group to be thawed.
_FOR_EVER = float("inf")
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.0002, 0.005
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
        taken: list[int] = []
        try:
            _traced(pid, taken)
            found.append(taken[0])
        except BaseException as error:  # noqa: BLE001 - raised by who began the thread
            for descriptor in taken:
                os.close(descriptor)
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


def _traced(pid: int, taken: list[int]) -> None:
    instruction = _find_instruction(pid)
    stopped: dict[int, int] = {}
    try:
        _stop_all(pid, stopped)
        at_rest = [each for each, status in stopped.items() if _is_at_rest(status)]
        for each in at_rest:
            _let_wait_on(each)
        thread = next((each for each in at_rest if _can_call(pid, each)), None)
        if thread is None:
            raise CannotInject(f"process {pid}: no thread of it can be made to call")
        # A filter may have been put there before it had stopped.
        syscalls.ptrace(_PTRACE_SETOPTIONS, thread, _options(thread))
        _make_and_take(pid, thread, instruction, stopped, taken)
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
                at = _read(pid, start, end - start).find(_SYSCALL_INSTRUCTION)
                if at >= 0:
                    return start + at
    raise CannotInject(f"process {pid}: it has no vDSO")


def _stop_all(pid: int, stopped: dict[int, int]) -> None:
    """Stop every thread, and those made meanwhile; fill in their wait statuses."""
    gone: set[int] = set()
    for _ in range(_ROUNDS):
        threads = set(map(int, os.listdir(f"/proc/{pid}/task"))) - stopped.keys() - gone
        if not threads:
            return
        for thread in threads:
            try:
                syscalls.ptrace(_PTRACE_SEIZE, thread, _options(thread))
                syscalls.ptrace(_PTRACE_INTERRUPT, thread)
            except (KernelError, FileNotFoundError, ProcessLookupError):
                if not _has_ended(pid, thread):
                    raise
                gone.add(thread)
        for thread in threads - gone:
            status = _wait(thread)
            if status is None:
                gone.add(thread)
            else:
                stopped[thread] = status
    raise CannotInject(f"process {pid}: its threads multiply faster than they can be stopped")


def _is_filtered(thread: int) -> bool:
    """Tell whether a thread's system calls go through a filter."""
    return procfs.status(thread).get("Seccomp", "0") != "0"


def _options(thread: int) -> int:
    """Return how a thread is traced."""
    if not _is_filtered(thread):
        return _PTRACE_O_TRACESYSGOOD
    # Its filter, which other threads need not have, need not know of our call.
    return _PTRACE_O_TRACESYSGOOD | _PTRACE_O_SUSPEND_SECCOMP


def _has_ended(pid: int, thread: int) -> bool:
    """Tell whether a thread is gone, or a zombie that waits for the others."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"ZX"
    except OSError:
        return True


def _wait(thread: int, patience_seconds: float = _PATIENCE_SECONDS) -> int | None:
    """Return a thread's wait status once it has stopped, None where it has ended."""
    deadline = time.monotonic() + patience_seconds
    pause = _PAUSE_SECONDS
    while True:
        try:
            found, status = os.waitpid(thread, _WALL | os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return status if os.WIFSTOPPED(status) else None
        if patience_seconds == _FOR_EVER and _has_ended(thread, thread):
            return None  # a first thread is not reported as long as there are others
        if time.monotonic() >= deadline:
            raise CannotInject(f"thread {thread} does not stop")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _is_at_rest(status: int) -> bool:
    """Tell whether a thread was stopped by us, not on its way to handle a signal."""
    return status >> 16 == _EVENT_STOP


def _let_wait_on(thread: int) -> None:
    """Have a wait without end that our stop has ended by EINTR be restarted after it.

    Where a signal is to be handled, the kernel turns this into EINTR by itself. A wait
    with a timeout would have the whole of it again, so it gets EINTR.
    """
    content = bytearray(_REGISTERS.size)
    syscalls.ptrace(_PTRACE_GETREGS, thread, content)
    registers = list(_REGISTERS.unpack(content))
    call = registers[_ORIG_AX]
    if registers[_AX] != _EINTR or call not in _WAITS or registers[_CS] != _CODE_SEGMENT_64:
        return
    place = _WAITS[call]
    timeout = 0 if place is None else registers[place]
    if timeout & _MINUS_ONE == _MINUS_ONE if call in _TIMEOUT_IS_A_NUMBER else timeout == 0:
        registers[_AX] = _ERESTARTNOHAND
        syscalls.ptrace(_PTRACE_SETREGS, thread, bytearray(_REGISTERS.pack(*registers)))


def _can_call(pid: int, thread: int) -> bool:
    """Tell whether a stopped thread can be sent elsewhere and back."""
    dispatch = bytearray(_DISPATCH.size)
    with contextlib.suppress(KernelError):  # an older kernel
        syscalls.ptrace(_PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, thread, dispatch, _DISPATCH.size)
    if _DISPATCH.unpack(dispatch)[0]:
        return False  # our call would be taken for one of the program it emulates
    return not _is_in_critical_section(pid, thread)


def _is_in_critical_section(pid: int, thread: int) -> bool:
    """Tell whether a thread is where the kernel would abort it, see rseq(2).

    Elsewhere the kernel forgets of it, and would not abort it when it is back.
    """
    rseq = bytearray(_RSEQ.size)
    try:
        syscalls.ptrace(_PTRACE_GET_RSEQ_CONFIGURATION, thread, rseq, _RSEQ.size)
    except KernelError:
        return False  # an older kernel
    address = _RSEQ.unpack(rseq)[0]
    if not address:
        return False
    pointer = int.from_bytes(_read(pid, address + _RSEQ_CS_OFFSET, 8), "little")
    if not pointer:
        return False
    _, _, start, length, _ = _RSEQ_CS.unpack(_read(pid, pointer, _RSEQ_CS.size))
    registers = bytearray(_REGISTERS.size)
    syscalls.ptrace(_PTRACE_GETREGS, thread, registers)
    return bool(start <= _REGISTERS.unpack(registers)[_IP] < start + length)


def _read(pid: int, address: int, size: int) -> bytearray:
    buffer = bytearray(size)
    memory.process_vm_readv(pid, buffer, size, struct.pack("=2Q", address, size))
    return buffer


def _make_and_take(
    pid: int, thread: int, instruction: int, stopped: dict[int, int], taken: list[int]
) -> None:
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
                taken.append(syscalls.pidfd_getfd(pidfd, number))
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
        status = _wait(thread, _FOR_EVER)
        while status is not None and os.WSTOPSIG(status) != _SYSCALL_STOP:
            # SIGSTOP, which cannot be blocked, came in between: it counts once we let go.
            syscalls.ptrace(
                _PTRACE_SYSCALL, thread, 0 if _is_at_rest(status) else os.WSTOPSIG(status)
            )
            status = _wait(thread, _FOR_EVER)
        if status is None:
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
    status = _wait(thread, _FOR_EVER)
    if status is None:
        del stopped[thread]
        raise CannotInject(f"thread {thread} was ended")
    stopped[thread] = status
    syscalls.ptrace(_PTRACE_SETREGS, thread, saved)
