"""What comes in front of a filter: "no such system call" for those it cannot have heard of.

Lives here: a few instructions of classic BPF. Must not live here: rules. Imported by
`filters`.

A filter that answers EPERM to what it does not name says so of calls that were invented
after it was written, too. A C library tries a new call first and falls back to the old
one on ENOSYS, but not on EPERM; so engines expect of a runtime that it answers ENOSYS to
every call with a higher number than any the filter names.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    # Code, jump if true, jump if false, operand; see linux/filter.h.
    Instruction = tuple[int, int, int, int]

ENOSYS = 38

# libseccomp's tokens, which are the kernel's numbers, but for x32: to the kernel its
# programs are of x86-64.
SCMP_ARCH_X86_64 = 0xC000003E
SCMP_ARCH_X32 = 0x4000003E

_LOAD_WORD = 0x20
_JUMP = 0x05
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_GREATER = 0x25
_JUMP_IF_BIT = 0x45
_RETURN = 0x06
# struct seccomp_data
_AT_NUMBER, _AT_ARCHITECTURE = 0, 4
_X32_BIT = 1 << 30
_RETURN_ENOSYS = (_RETURN, 0, 0, 0x00050000 | ENOSYS)


def front(newest: dict[int, int], order: Literal["little", "big"]) -> bytes:
    """Return instructions that end a call with ENOSYS, or fall through to what follows.

    Args:
        newest: the highest number known, by libseccomp's token of an architecture.
        order: of the machine's bytes.
    """
    sections = [
        (token, _x86_64(newest) if token == SCMP_ARCH_X86_64 else _section(newest[token]))
        for token in sorted(_as_the_kernel_names(newest))
    ]
    program: list[Instruction] = [(_LOAD_WORD, 0, 0, _AT_ARCHITECTURE)]
    left = sum(len(section) + 3 for _, section in sections)
    for token, section in sections:
        left -= len(section) + 3
        program.append((_JUMP_IF_EQUAL, 0, len(section) + 2, token))
        program.append((_LOAD_WORD, 0, 0, _AT_NUMBER))
        program += section
        program.append((_JUMP, 0, 0, left))
    return b"".join(
        code.to_bytes(2, order) + bytes((yes, no)) + operand.to_bytes(4, order)
        for code, yes, no, operand in program
    )


def _as_the_kernel_names(tokens: dict[int, int]) -> set[int]:
    return {SCMP_ARCH_X86_64 if token == SCMP_ARCH_X32 else token for token in tokens}


def _section(newest: int) -> list[Instruction]:
    return [(_JUMP_IF_GREATER, 0, 1, newest), _RETURN_ENOSYS]


def _x86_64(newest: dict[int, int]) -> list[Instruction]:
    """Numbers of x32 have a bit of their own; whichever is not named is left to the filter."""
    plain = _section(newest[SCMP_ARCH_X86_64]) if SCMP_ARCH_X86_64 in newest else []
    if SCMP_ARCH_X32 not in newest:
        return [(_JUMP_IF_BIT, len(plain), 0, _X32_BIT), *plain] if plain else []
    x32 = _section(newest[SCMP_ARCH_X32])
    skip = (_JUMP, 0, 0, len(x32))
    return [(_JUMP_IF_BIT, len(plain) + 1, 0, _X32_BIT), *plain, skip, *x32]
