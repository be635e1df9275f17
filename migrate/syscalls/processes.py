"""Namespaces, processes, their privileges, and what a control group lets them use.

Lives here: one function a call, named as its man page. Imported through
`migrate.syscalls`.
"""

from __future__ import annotations

import os
import sys
from _ctypes import addressof, get_errno

from migrate.syscalls.call import Char, Int, call, function, syscall, to_c

# The same number on every architecture.
_PIDFD_SEND_SIGNAL = 424
_PIDFD_OPEN = 434
_PIDFD_GETFD = 438

# Older than the common numbers: x86-64, and what the others took over from arm64.
_IS_X86 = os.uname().machine == "x86_64"
_KEYCTL = 250 if _IS_X86 else 219
_RT_SIGACTION = 13 if _IS_X86 else 134
_PROCESS_VM_WRITEV = 311 if _IS_X86 else 271
_PTRACE = 101 if _IS_X86 else 117
_BPF = 321 if _IS_X86 else 280
_SECCOMP = 317 if _IS_X86 else 277
_IOPRIO_SET = 251 if _IS_X86 else 30
_IOPRIO_GET = 252 if _IS_X86 else 31
_PERSONALITY = 135 if _IS_X86 else 92
_SCHED_SETATTR = 314 if _IS_X86 else 274
_SET_MEMPOLICY = 238 if _IS_X86 else 237

_capget = function("capget")
_capset = function("capset")
_prctl = function("prctl")
_prlimit = function("prlimit")
_setdomainname = function("setdomainname")
_sethostname = function("sethostname")
_setns = function("setns")
_unshare = function("unshare")


# --- namespaces ---


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the UTS namespace, see setdomainname(2)."""
    raw = os.fsencode(name)
    call(_setdomainname, "setdomainname", name, raw, len(raw))


def sethostname(name: str) -> None:
    """Set the host name of the UTS namespace, see sethostname(2)."""
    raw = os.fsencode(name)
    call(_sethostname, "sethostname", name, raw, len(raw))


def setns(fd: int, kinds: int = 0) -> None:
    """Join namespaces, see setns(2).

    Args:
        fd: of a namespace file, or a pidfd (Linux 5.8).
        kinds: CLONE_NEW* bit the file must be of; for a pidfd all that are joined.

    Raises:
        KernelError: EINVAL for CLONE_NEWUSER of the caller's own namespace or
            with a second thread; EPERM without CAP_SYS_ADMIN over it.
    """
    call(_setns, "setns", f"{kinds:#x}", Int(fd), Int(kinds))


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces, see unshare(2).

    Args:
        flags: CLONE_NEW* bits; CLONE_NEWPID and CLONE_NEWTIME take effect in
            the next child only.

    Raises:
        KernelError: EPERM without CAP_SYS_ADMIN; EINVAL for CLONE_NEWUSER
            while the process has a second thread.
    """
    call(_unshare, "unshare", f"{flags:#x}", Int(flags))


# --- processes ---


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor, see pidfd_getfd(2), Linux 5.6."""
    return call(syscall, "pidfd_getfd", fd, _PIDFD_GETFD, pidfd, fd, 0)


def pidfd_open(pid: int) -> int:
    """A descriptor of a process, close-on-exec, see pidfd_open(2), Linux 5.3.

    Raises:
        KernelError: ESRCH where there is no such process.
    """
    return call(syscall, "pidfd_open", pid, _PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal the process of a pidfd, see pidfd_send_signal(2), Linux 5.1.

    Raises:
        KernelError: ESRCH where the process has gone.
    """
    call(
        syscall,
        "pidfd_send_signal",
        number,
        _PIDFD_SEND_SIGNAL,
        pidfd,
        number,
        None,
        0,
    )


def prctl(option: int, arg2: int | bytes = 0, arg3: int = 0) -> int:
    """Operate on the calling process, see prctl(2)."""
    return call(_prctl, "prctl", option, Int(option), arg2, arg3, 0, 0)


def ptrace(request: int, thread: int, data: int | bytearray = 0, address: int = 0) -> int:
    """Trace a thread, see ptrace(2).

    Raises:
        KernelError: ESRCH where it is gone or not stopped, EPERM where it has a tracer.
    """
    return call(syscall, "ptrace", thread, _PTRACE, request, thread, address, data)


def process_vm_writev(pid: int, data: bytearray, size: int, remote: bytes) -> int:
    """Write into another process's memory, see process_vm_writev(2).

    Args:
        data: holds what is written, from its beginning.
        size: how much of it, in bytes.
        remote: struct iovec of each place there, one after the other; 1024 at most.

    Returns:
        How many bytes it took; fewer where a place is not there or not writable.

    Raises:
        KernelError: EPERM without CAP_SYS_PTRACE over it, ESRCH where it is gone, EFAULT
            where the first place is not there.
    """
    order = sys.byteorder
    address = addressof((Char * len(data)).from_buffer(data))
    local = address.to_bytes(8, order) + size.to_bytes(8, order)
    places = len(remote) // len(local)
    return call(
        syscall, "process_vm_writev", pid, _PROCESS_VM_WRITEV, pid, local, 1, remote, places, 0
    )


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a process's limit, see prlimit(2).

    Args:
        pid: 0 for the caller.
        resource: RLIMIT_* number.
        soft: new soft limit; 2**64-1 for none.
        hard: new hard limit; 2**64-1 for none.

    Raises:
        KernelError: EPERM for a hard limit above the present one without
            CAP_SYS_RESOURCE.
    """
    limits = soft.to_bytes(8, sys.byteorder) + hard.to_bytes(8, sys.byteorder)
    call(_prlimit, "prlimit", resource, Int(pid), Int(resource), limits, None)


def reset_signal(number: int) -> None:
    """Give a signal its default action, see rt_sigaction(2).

    Not the library's call, which keeps signals 32 and 33 from its callers: they
    too are inherited through execve when the parent ignored them.

    Raises:
        KernelError: EINVAL for SIGKILL, SIGSTOP and what is no signal.
    """
    call(syscall, "rt_sigaction", number, _RT_SIGACTION, number, bytes(32), None, 8)


# --- how they share the machine ---


def ioprio_set(which: int, who: int, priority: int) -> None:
    """Set the I/O priority of processes, see ioprio_set(2).

    Args:
        which: IOPRIO_WHO_PROCESS, 1, or IOPRIO_WHO_PGRP, 2.
        who: process or process group.
        priority: class << 13 | level.

    Raises:
        KernelError: EPERM for the real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE.
    """
    call(syscall, "ioprio_set", who, _IOPRIO_SET, which, who, priority)


def ioprio_get(which: int, who: int) -> int:
    """Return the I/O priority of a process, see ioprio_get(2).

    Args:
        which: IOPRIO_WHO_PROCESS, 1.
        who: thread.

    Raises:
        KernelError: ESRCH where it has ended.
    """
    return call(syscall, "ioprio_get", who, _IOPRIO_GET, which, who)


def personality(persona: int) -> None:
    """Set which system the calling process is shown, see personality(2)."""
    call(syscall, "personality", f"{persona:#x}", _PERSONALITY, persona)


def sched_setattr(pid: int, attributes: bytes) -> None:
    """Set how a process shares processors, see sched_setattr(2).

    Args:
        pid: 0 for the caller.
        attributes: struct sched_attr, its size first.

    Raises:
        KernelError: EPERM without CAP_SYS_NICE, or where the cgroup has no real-time
            budget; EBUSY where deadlines of others fill the machine; EINVAL.
    """
    call(syscall, "sched_setattr", pid, _SCHED_SETATTR, pid, attributes, 0)


def set_mempolicy(mode: int, nodes: bytes) -> None:
    """Set where the calling process's memory comes from, see set_mempolicy(2).

    Args:
        mode: MPOL_* number and flags.
        nodes: bit mask of nodes, in whole longs; empty for none.

    Raises:
        KernelError: EINVAL for nodes that are not there or a mode this kernel lacks;
            ENOSYS for one without NUMA.
    """
    # The kernel looks at one bit less than it is told.
    most = len(nodes) * 8 + 1 if nodes else 0
    call(syscall, "set_mempolicy", f"{mode:#x}", _SET_MEMPOLICY, mode, nodes or None, most)


# --- credentials ---

_CAPABILITY_VERSION_3 = 0x20080522


def capget() -> tuple[int, int, int]:
    """The caller's effective, permitted and inheritable sets, see capget(2)."""
    header = bytearray(_CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4))
    data = bytearray(24)
    call(_capget, "capget", "", header, data)
    words = [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, 24, 4)]
    effective, permitted, inheritable = (words[at] | words[at + 3] << 32 for at in range(3))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's three capability sets, see capset(2).

    Args:
        effective: bit mask, 1 << CAP_*.
        permitted: bit mask.
        inheritable: bit mask.

    Raises:
        KernelError: EPERM for a capability the caller has not.
    """
    order = sys.byteorder
    header = bytearray(_CAPABILITY_VERSION_3.to_bytes(4, order) + bytes(4))
    sets = (effective, permitted, inheritable)
    low = b"".join((value & 0xFFFFFFFF).to_bytes(4, order) for value in sets)
    high = b"".join((value >> 32).to_bytes(4, order) for value in sets)
    call(_capset, "capset", f"{permitted:#x}", header, low + high)


def keyctl(
    operation: int, arg2: int | bytes | None = None, arg3: int | bytearray = 0, arg4: int = 0
) -> int:
    """Operate on the kernel's key rings, see keyctl(2)."""
    return call(syscall, "keyctl", operation, _KEYCTL, operation, arg2, arg3, arg4, 0)


# --- system call filters ---

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32
_EFAULT = 14


def seccomp_set_filter(program: bytes, flags: int) -> int:
    """Filter the system calls of this thread from now on, see seccomp(2).

    Args:
        program: instructions of classic BPF, eight bytes each.
        flags: SECCOMP_FILTER_FLAG_* bits.

    Returns:
        The listener's descriptor, close-on-exec, with SECCOMP_FILTER_FLAG_NEW_LISTENER.

    Raises:
        KernelError: EACCES without no_new_privs and without CAP_SYS_ADMIN in the user
            namespace; EINVAL for a program or a flag the kernel does not take.
    """
    code = (Char * len(program)).from_buffer_copy(program)
    fprog = bytearray(16)
    fprog[:2] = (len(program) // 8).to_bytes(2, sys.byteorder)
    fprog[8:] = addressof(code).to_bytes(8, sys.byteorder)
    subject = f"SECCOMP_SET_MODE_FILTER {flags:#x}"
    return call(syscall, "seccomp", subject, _SECCOMP, SECCOMP_SET_MODE_FILTER, flags, fprog)


def seccomp_knows_flags(flags: int) -> bool:
    """Tell whether this kernel has these flags: then the missing program is what it minds."""
    if flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER  # the one is nothing without the other
    arguments = (_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, None)
    return bool(syscall(*map(to_c, arguments)) < 0 and get_errno() == _EFAULT)


# --- control groups ---

BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2


def bpf_attach_device_program(directory_fd: int, instructions: bytes) -> None:
    """Let a program decide which devices a cgroup2 group may use, see bpf(2).

    The program stays for as long as the group does.

    Args:
        directory_fd: descriptor of the group's directory.
        instructions: eight bytes each, see the kernel's bpf/standardization.

    Raises:
        KernelError: EPERM without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN); EINVAL
            for a program the verifier does not accept.
    """
    order = sys.byteorder
    code = (Char * len(instructions)).from_buffer_copy(instructions)
    terms = (Char * 4).from_buffer_copy(b"GPL\0")
    load = bytearray(128)
    for at, size, value in (
        (0, 4, BPF_PROG_TYPE_CGROUP_DEVICE),
        (4, 4, len(instructions) // 8),
        (8, 8, addressof(code)),
        (16, 8, addressof(terms)),
    ):
        load[at : at + size] = value.to_bytes(size, order)
    program = call(syscall, "bpf", "BPF_PROG_LOAD", _BPF, BPF_PROG_LOAD, load, len(load))
    try:
        attach = b"".join(
            value.to_bytes(4, order)
            for value in (directory_fd, program, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
        )
        call(syscall, "bpf", "BPF_PROG_ATTACH", _BPF, BPF_PROG_ATTACH, attach, len(attach))
    finally:
        os.close(program)
