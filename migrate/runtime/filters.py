"""System call filters: from a configuration to the program that init loads.

Lives here: what the words of `linux.seccomp` mean to libseccomp, the part in front of
its program, and the hand-over of a listener. Must not live here: checks of the
configuration (`spec.confinement`), the moment of loading (`init.process`). Imported by
`launch`, `execute` and `begin`, and only for a container that has a filter.
"""

from __future__ import annotations

import _socket
import os
import sys

from migrate import syscalls
from migrate.errors import ConfigError, KernelError, StageError
from migrate.runtime import door, hooks, jsontext
from migrate.runtime.filter_front import ENOSYS, front
from migrate.runtime.spec.confinement import notifies

try:
    from migrate.syscalls import libseccomp
except ImportError as error:
    raise StageError(
        f"$.linux.seccomp: libseccomp cannot be used: {error}",
        "Install libseccomp2, or remove the filter (podman: --security-opt seccomp=unconfined).",
    ) from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from migrate.runtime.spec.model import Seccomp, SeccompArgument, SeccompRule
    from migrate.runtime.state import Record

    # The program, the flags of seccomp(2), whether a listener comes of it.
    Filter = tuple[bytes, int, bool]

_EPERM = 1

ACTIONS: dict[str, int] = {
    "SCMP_ACT_ALLOW": libseccomp.SCMP_ACT_ALLOW,
    "SCMP_ACT_ERRNO": libseccomp.SCMP_ACT_ERRNO,
    "SCMP_ACT_KILL": libseccomp.SCMP_ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": libseccomp.SCMP_ACT_KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": libseccomp.SCMP_ACT_KILL_THREAD,
    "SCMP_ACT_LOG": libseccomp.SCMP_ACT_LOG,
    "SCMP_ACT_NOTIFY": libseccomp.SCMP_ACT_NOTIFY,
    "SCMP_ACT_TRACE": libseccomp.SCMP_ACT_TRACE,
    "SCMP_ACT_TRAP": libseccomp.SCMP_ACT_TRAP,
}
_WITH_NUMBER = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})
# After these a call the filter has not heard of goes on anyway.
_PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})

# enum scmp_compare
OPERATORS: dict[str, int] = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

FLAGS: dict[str, int] = {
    # Every thread at once: there is one when the filter is loaded, and the flag does not
    # go together with a listener.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": syscalls.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

MOST_INSTRUCTIONS = 4096
# From here on the library sorts the calls into a tree: earlier releases go wrong with
# one of no rules at all.
_RULES_WORTH_A_TREE = 32


def compiled(seccomp: Seccomp, path: str = "$.linux.seccomp") -> Filter:
    """Return what init loads.

    Args:
        seccomp: decoded and valid.
        path: JSON path of it.

    Raises:
        ConfigError: a rule the library or the kernel does not take.
    """
    flags = _flags(seccomp, path)
    tokens = _architectures(seccomp, path)
    default = _action(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    rules = seccomp.get("syscalls", [])
    try:
        made = libseccomp.Filter(default)
    except KernelError as error:
        raise _refusal(f"{path}.defaultAction", seccomp["defaultAction"], error) from None
    try:
        for token, where in tokens.items():
            try:
                made.arch_add(token)
            except KernelError as error:  # EDOM: of another byte order than the machine's
                raise _refusal(where, "it here", error) from None
        if sum(len(rule["names"]) for rule in rules) > _RULES_WORTH_A_TREE:
            made.attr_set(libseccomp.SCMP_FLTATR_CTL_OPTIMIZE, 2)
        for at, rule in enumerate(rules):
            _add(made, rule, default, f"{path}.syscalls[{at}]")
        program = made.export_bpf()
    finally:
        made.close()
    if seccomp["defaultAction"] not in _PERMISSIVE and default & 0xFFFF != ENOSYS:
        program = front(_newest(rules, tokens), sys.byteorder) + program
    if len(program) > MOST_INSTRUCTIONS * 8:
        raise ConfigError(
            path, f"makes {len(program) // 8} instructions, {MOST_INSTRUCTIONS} are the most"
        )
    return program, flags, notifies(seccomp)


def known_architectures() -> list[str]:
    """Return those of the spec's architectures that this libseccomp has."""
    from migrate.runtime.spec.schema import SECCOMP_ARCHITECTURES

    return [name for name in SECCOMP_ARCHITECTURES if _token(name)]


def supported_flags() -> list[str]:
    """Return those of the spec's flags that this kernel has."""
    return [name for name, flag in FLAGS.items() if syscalls.seccomp_knows_flags(flag)]


def _flags(seccomp: Seccomp, path: str) -> int:
    """Without a word about flags, speculation is left alone as runc leaves it."""
    names = seccomp.get("flags")
    if names is None:
        wanted = syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW
        flags = wanted if syscalls.seccomp_knows_flags(wanted) else 0
    else:
        flags = 0
        for at, name in enumerate(names):
            if not syscalls.seccomp_knows_flags(FLAGS[name]):
                raise ConfigError(f"{path}.flags[{at}]", f"this kernel has no {name}")
            flags |= FLAGS[name]
    if notifies(seccomp):
        flags |= syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
    elif flags & syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
        # Of a listener alone; the kernel refuses it without one.
        flags &= ~syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    return flags


def _architectures(seccomp: Seccomp, path: str) -> dict[int, str]:
    """Token and JSON path of all architectures, the machine's own always among them."""
    tokens = {libseccomp.arch_native(): path}
    for at, name in enumerate(seccomp.get("architectures", [])):
        token = _token(name)
        where = f"{path}.architectures[{at}]"
        if not token:
            raise ConfigError(
                where,
                f"{name} is not known to libseccomp {'.'.join(map(str, libseccomp.version()))}",
                "Remove it, or install a newer libseccomp.",
            )
        tokens.setdefault(token, where)
    return tokens


def _token(name: str) -> int:
    return libseccomp.arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower())


def _action(word: str, number: int | None) -> int:
    if word not in _WITH_NUMBER:
        return ACTIONS[word]
    return ACTIONS[word] | (_EPERM if number is None else number)


def _add(made: libseccomp.Filter, rule: SeccompRule, default: int, path: str) -> None:
    """Add what a rule says of each of its calls, as far as anybody knows the call.

    One that says what the default says anyway is left out: the library would refuse it.
    """
    action = _action(rule["action"], rule.get("errnoRet"))
    if action == default:
        return
    sets = _conditions(rule.get("args", []))
    for at, name in enumerate(rule["names"]):
        number = libseccomp.syscall_resolve_name_arch(libseccomp.arch_native(), name)
        if number == libseccomp.NR_SCMP_ERROR:
            continue
        for conditions in sets:
            try:
                made.rule_add(action, number, conditions)
            except KernelError as error:
                raise _refusal(f"{path}.names[{at}]", name, error) from None


def _conditions(arguments: list[SeccompArgument]) -> list[list[tuple[int, int, int, int]]]:
    """The conditions of a rule: all must hold, but two on one argument are two rules."""
    conditions = [
        (each["index"], OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0))
        for each in arguments
    ]
    if len({index for index, *_ in conditions}) < len(conditions):
        return [[condition] for condition in conditions]
    return [conditions]


def _refusal(path: str, subject: str, error: KernelError) -> ConfigError:
    reason = os.strerror(error.errno).lower()
    return ConfigError(path, f"libseccomp does not take {subject}: {reason}")


def _newest(rules: list[SeccompRule], tokens: Iterable[int]) -> dict[int, int]:
    """The highest number that the rules name, by architecture."""
    names = {name for rule in rules for name in rule["names"]}
    newest = {
        token: max((libseccomp.syscall_resolve_name_arch(token, name) for name in names), default=0)
        for token in tokens
    }
    return {token: number for token, number in newest.items() if number > 0}


def hand_over(fd: int, seccomp: Seccomp, record: Record, status: str, pid: int) -> None:
    """Send a listener to whoever is to be asked, see config-linux.md "Container Process State".

    Args:
        fd: the listener; stays open here.
        seccomp: of the container's configuration.
        record: the container's.
        status: the container's.
        pid: whose filter it is, as seen here.

    Raises:
        StageError: nobody listens there.
    """
    state = jsontext.loads(hooks.state(record, status, record["pid"]).encode())
    message = {"ociVersion": record["oci_version"], "fds": ["seccompFd"], "pid": pid}
    if seccomp.get("listenerMetadata"):
        message["metadata"] = seccomp["listenerMetadata"]
    message["state"] = state
    path = seccomp["listenerPath"]
    packed = fd.to_bytes(4, sys.byteorder)
    data = jsontext.dumps(message).encode()
    try:
        end = door.connect(path)
        try:
            control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
            sent = end.sendmsg([data], control, _socket.MSG_NOSIGNAL)
            end.sendall(data[sent:], _socket.MSG_NOSIGNAL)
        finally:
            end.close()
    except OSError as error:
        raise StageError(
            f"$.linux.seccomp.listenerPath: {path}: {str(error.strerror).lower()}",
            "Listen on it before the container is started.",
        ) from None
