"""System call filters.

Lives here: seccomp(2) and the constants it takes. Imported through `migrate.syscalls`.
How a program comes about is `migrate.syscalls.libseccomp`, which is loaded only where
one has to be made: init gets it ready-made.
"""

from __future__ import annotations

import os
import sys
from _ctypes import addressof, get_errno

from migrate.syscalls.call import Char, call, syscall, to_c

# Older than the common numbers: x86-64, and what the others took over from arm64.
_SECCOMP = 317 if os.uname().machine == "x86_64" else 277

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
