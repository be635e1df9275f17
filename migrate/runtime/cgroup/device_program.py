"""Which devices a container may use on cgroup v2, as a program for the kernel.

Lives here: turning rules into BPF instructions. v2 has no devices controller: the kernel
asks a program attached to the group, see the kernel's admin-guide/cgroup-v2.rst,
"Device controller", and bpf/standardization/instruction-set.rst. Imported by `limits`.

The kernel asks for one device and a set of accesses. In the rules of the runtime-spec
the last one that matches decides, for each access of its own; so the program goes
through them backwards with the accesses still undecided in a register:

    opens    the accesses it names are decided; when none is left, yes
    closes   if one of the accesses it names is undecided, no
    the end  no
"""

from __future__ import annotations

import os
import sys

from migrate.errors import CgroupError, KernelError
from migrate.runtime.cgroup.devices import ANY, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from migrate.runtime.cgroup.devices import Rule

# struct bpf_cgroup_dev_ctx: access_type (accesses << 16 | kind), major, minor
KINDS = {"b": 1, "c": 2}
ACCESSES = {"m": 1, "r": 2, "w": 4}

LOAD_WORD = 0x61
MOVE_REGISTER = 0xBC
MOVE_NUMBER = 0xB7
AND_NUMBER = 0x54
SHIFT_RIGHT = 0x74
JUMP_IF_EQUAL = 0x15
JUMP_IF_NOT_EQUAL = 0x55
EXIT = 0x95

ANSWER, CONTEXT, KIND, UNDECIDED, MAJOR, MINOR, SCRATCH = 0, 1, 2, 3, 4, 5, 6


def attach(directory: str, devices: Sequence[Mapping[str, Any]]) -> None:
    """Close a container's cgroup to all devices but those its rules open.

    Args:
        directory: of its v2 cgroup, nobody in it yet.
        devices: `linux.resources.devices`.

    Raises:
        CgroupError: the kernel refuses the program; never is it left out silently.
    """
    from migrate import syscalls

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.bpf_attach_device_program(fd, program(rules(devices)))
    except KernelError as error:
        raise CgroupError(
            f"devices cannot be closed for control group {directory}: {error}",
            "Run as root with CAP_BPF and CAP_NET_ADMIN, on a kernel with CONFIG_CGROUP_BPF.",
        ) from None
    finally:
        os.close(fd)


def program(ordered: Sequence[Rule]) -> bytes:
    """Return the instructions that decide as the rules do."""
    parts = [
        _instruction(LOAD_WORD, KIND, CONTEXT, 0),
        _instruction(MOVE_REGISTER, UNDECIDED, KIND),
        _instruction(AND_NUMBER, KIND, number=0xFFFF),
        _instruction(SHIFT_RIGHT, UNDECIDED, number=16),
        _instruction(LOAD_WORD, MAJOR, CONTEXT, 4),
        _instruction(LOAD_WORD, MINOR, CONTEXT, 8),
    ]
    for rule in reversed(ordered):
        parts += _rule(rule)
        if rule.kind == "a":
            # It decides everything: what stands before it never counts, and the kernel
            # refuses instructions that cannot be reached.
            return b"".join(parts)
    return b"".join((*parts, *_answer(0)))


def _rule(rule: Rule) -> list[bytes]:
    """Return the instructions of one rule; they are jumped over where it does not match."""
    accesses = sum(bit for letter, bit in ACCESSES.items() if letter in rule.access)
    if rule.kind == "a":
        return _answer(int(rule.allow))
    if rule.allow:
        verdict = [
            _instruction(AND_NUMBER, UNDECIDED, number=~accesses & 7),
            _instruction(JUMP_IF_NOT_EQUAL, UNDECIDED, offset=2),
            *_answer(1),
        ]
    else:
        verdict = [
            _instruction(MOVE_REGISTER, SCRATCH, UNDECIDED),
            _instruction(AND_NUMBER, SCRATCH, number=accesses),
            _instruction(JUMP_IF_EQUAL, SCRATCH, offset=2),
            *_answer(0),
        ]
    tests = [(KIND, KINDS[rule.kind])]
    tests += [(MAJOR, rule.major)] if rule.major != ANY else []
    tests += [(MINOR, rule.minor)] if rule.minor != ANY else []
    # A test that fails jumps behind the verdict, over the tests that follow it.
    left = len(verdict) + len(tests)
    matching = []
    for register, number in tests:
        left -= 1
        matching.append(_instruction(JUMP_IF_NOT_EQUAL, register, offset=left, number=number))
    return matching + verdict


def _answer(allowed: int) -> list[bytes]:
    """Return the instructions that end the program with an answer."""
    return [_instruction(MOVE_NUMBER, ANSWER, number=allowed), _instruction(EXIT)]


def _instruction(
    code: int, destination: int = 0, source: int = 0, offset: int = 0, number: int = 0
) -> bytes:
    """Return one instruction's eight bytes; the two registers share one of them."""
    little = sys.byteorder == "little"
    registers = destination | source << 4 if little else destination << 4 | source
    return (
        bytes((code, registers))
        + offset.to_bytes(2, sys.byteorder, signed=True)
        + number.to_bytes(4, sys.byteorder, signed=True)
    )
