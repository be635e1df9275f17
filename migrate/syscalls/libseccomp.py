"""libseccomp: from rules about system calls to a program the kernel takes.

Lives here: one function a function of the library, named as its man page without the
prefix `seccomp_`. Must not live here: what a configuration's words mean. Not part of
`migrate.syscalls`' one door: importing it loads the library, and only a container with
a filter needs that.

Raises ImportError when it is imported where libseccomp is not installed.
"""

from __future__ import annotations

import os
import sys
from _ctypes import CFuncPtr, dlopen, dlsym

from migrate.errors import KernelError
from migrate.syscalls.call import Char, IntFunction, Long, LongFunction, to_c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Function = TypeVar("Function", bound=CFuncPtr)

LIBRARY = "libseccomp.so.2"
_RTLD_NOW = 2
_U32 = 0xFFFFFFFF

# seccomp.h
SCMP_ACT_KILL_PROCESS = 0x80000000
SCMP_ACT_KILL_THREAD = 0x00000000
SCMP_ACT_TRAP = 0x00030000
SCMP_ACT_ERRNO = 0x00050000
SCMP_ACT_NOTIFY = 0x7FC00000
SCMP_ACT_TRACE = 0x7FF00000
SCMP_ACT_LOG = 0x7FFC0000
SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_FLTATR_CTL_OPTIMIZE = 8
NR_SCMP_ERROR = -1

try:
    _handle = dlopen(LIBRARY, _RTLD_NOW)
except OSError as error:
    raise ImportError(str(error)) from None


def _function(kind: type[Function], name: str) -> Function:
    try:
        return kind(dlsym(_handle, f"seccomp_{name}"))
    except OSError as error:
        raise ImportError(str(error)) from None


_arch_add = _function(IntFunction, "arch_add")
_arch_native = _function(LongFunction, "arch_native")
_arch_resolve_name = _function(LongFunction, "arch_resolve_name")
_attr_set = _function(IntFunction, "attr_set")
_export_bpf = _function(IntFunction, "export_bpf")
_init = _function(LongFunction, "init")
_release = _function(LongFunction, "release")
_rule_add_array = _function(IntFunction, "rule_add_array")
_syscall_resolve_name_arch = _function(IntFunction, "syscall_resolve_name_arch")
_version = _function(LongFunction, "version")


def _check(result: int, name: str, subject: object) -> None:
    """Raise for what the library returns: error numbers, negative."""
    if result < 0:
        raise KernelError(f"seccomp_{name}", str(subject), -result)


def version() -> tuple[int, int, int]:
    """Major, minor and micro of the library, see seccomp_version(3)."""
    data = bytes((Char * 12).from_address(_version()))
    major, minor, micro = (int.from_bytes(data[i : i + 4], sys.byteorder) for i in (0, 4, 8))
    return major, minor, micro


def arch_native() -> int:
    """The token of this machine's architecture, see seccomp_arch_native(3)."""
    token: int = _arch_native()
    return token & _U32


def arch_resolve_name(name: str) -> int:
    """An architecture's token, 0 for one the library does not know.

    Args:
        name: in lower case and without prefix, see seccomp_arch_resolve_name(3).
    """
    token: int = _arch_resolve_name(name.encode())
    return token & _U32


def syscall_resolve_name_arch(token: int, name: str) -> int:
    """A system call's number, see seccomp_syscall_resolve_name_arch(3).

    Returns:
        NR_SCMP_ERROR for one the library does not know; another negative number for one
        that this architecture lacks.
    """
    number: int = _syscall_resolve_name_arch(to_c(token), os.fsencode(name))
    return number


class Filter:
    """A set of rules, to be closed, see seccomp_init(3)."""

    def __init__(self, default_action: int) -> None:
        self._context: int = _init(to_c(default_action))
        if not self._context:
            raise KernelError("seccomp_init", f"{default_action:#x}", 22)

    def close(self) -> None:
        """Free it, see seccomp_release(3)."""
        if self._context:
            _release(Long(self._context))
            self._context = 0

    def arch_add(self, token: int) -> None:
        """Have the rules hold for one more architecture, see seccomp_arch_add(3)."""
        result = _arch_add(Long(self._context), to_c(token))
        if result != -17:  # EEXIST: it has it already
            _check(result, "arch_add", f"{token:#x}")

    def attr_set(self, attribute: int, value: int) -> None:
        """Set one of SCMP_FLTATR_*, see seccomp_attr_set(3)."""
        result = _attr_set(Long(self._context), to_c(attribute), to_c(value))
        _check(result, "attr_set", attribute)

    def rule_add(
        self, action: int, number: int, conditions: list[tuple[int, int, int, int]]
    ) -> None:
        """Add what is to happen on a system call, see seccomp_rule_add_array(3).

        Args:
            action: SCMP_ACT_*.
            number: the system call's, see `syscall_resolve_name_arch`.
            conditions: on its arguments, all of them: index, operator, two operands.

        Raises:
            KernelError: EEXIST for a rule that contradicts another.
        """
        order = sys.byteorder
        array = b"".join(
            index.to_bytes(4, order)
            + operator.to_bytes(4, order)
            + first.to_bytes(8, order)
            + second.to_bytes(8, order)
            for index, operator, first, second in conditions
        )
        arguments = (action, number, len(conditions), array)
        result = _rule_add_array(Long(self._context), *map(to_c, arguments))
        _check(result, "rule_add_array", number)

    def export_bpf(self) -> bytes:
        """The program, as seccomp(2) takes it, see seccomp_export_bpf(3)."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(_export_bpf(Long(self._context), to_c(fd)), "export_bpf", "memfd")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
