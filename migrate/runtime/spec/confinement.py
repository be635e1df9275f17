"""Rules of a configuration about system call filters and security labels.

Lives here: checks beyond types, after which `runtime.filters` and `plan` need none.
Must not live here: making a filter. Imported by `validation`, and only where one of the
fields is there. Source: config-linux.md "Seccomp", config.md "Linux Process".
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.errors import ConfigError, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import Linux, Process, Seccomp, SeccompRule

APPARMOR_ENABLED = "/sys/module/apparmor/parameters/enabled"
SELINUX_MOUNT_POINT = "/sys/fs/selinux"
OWN_LABEL = "/proc/self/attr/current"
SELINUX_MAGIC = 0xF97CFF8C

# What libseccomp lets an action say: error numbers below the kernel's MAX_ERRNO, and all
# the bits a tracer is told.
LARGEST_BY_ACTION: dict[str, int] = {"SCMP_ACT_ERRNO": 4094, "SCMP_ACT_TRACE": 0xFFFF}
LAST_ARGUMENT = 5
# The listener's descriptor is handed over by the one, with runc by the other.
NEVER_NOTIFIED = frozenset({"sendmsg", "write"})


def check_linux(linux: Linux, path: str) -> None:
    """Refuse a filter or a label that cannot be had, see `check_seccomp`, `check_labels`."""
    check_selinux(linux.get("mountLabel", ""), f"{path}.mountLabel")
    if "seccomp" in linux:
        check_seccomp(linux["seccomp"], f"{path}.seccomp")


def check_seccomp(seccomp: Seccomp, path: str) -> None:
    """Refuse a filter that cannot be made as it is written.

    Raises:
        ConfigError: names the JSON path and the value.
    """
    action = seccomp["defaultAction"]
    if action == "SCMP_ACT_NOTIFY":
        raise ConfigError(
            f"{path}.defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action"
        )
    if "defaultErrnoRet" in seccomp:
        _errno(action, seccomp["defaultErrnoRet"], f"{path}.defaultErrnoRet")
    rules = seccomp.get("syscalls", [])
    for at, rule in enumerate(rules):
        _rule(rule, f"{path}.syscalls[{at}]")
    if notifies(seccomp) and not seccomp.get("listenerPath"):
        raise ConfigError(
            f"{path}.listenerPath",
            "is missing: SCMP_ACT_NOTIFY needs a socket to send the listener to",
        )
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        raise ConfigError(f"{path}.listenerMetadata", "must not be set without listenerPath")


def notifies(seccomp: Seccomp) -> bool:
    """Tell whether somebody is to be asked about system calls."""
    return any(rule["action"] == "SCMP_ACT_NOTIFY" for rule in seccomp.get("syscalls", []))


def _rule(rule: SeccompRule, path: str) -> None:
    if not rule["names"]:
        raise ConfigError(f"{path}.names", "must have at least one name")
    for at, name in enumerate(rule["names"]):
        if not name:
            raise ConfigError(f"{path}.names[{at}]", "an empty string is no system call")
        if rule["action"] == "SCMP_ACT_NOTIFY" and name in NEVER_NOTIFIED:
            raise ConfigError(
                f"{path}.names[{at}]",
                f"SCMP_ACT_NOTIFY cannot be used for the {name} syscall",
                "Leave it out: the listener itself is handed over by it.",
            )
    if "errnoRet" in rule:
        _errno(rule["action"], rule["errnoRet"], f"{path}.errnoRet")
    for at, argument in enumerate(rule.get("args", [])):
        if argument["index"] > LAST_ARGUMENT:
            raise ConfigError(
                f"{path}.args[{at}].index",
                f"{argument['index']} is not between 0 and {LAST_ARGUMENT}",
            )


def _errno(action: str, number: int, path: str) -> None:
    """The spec asks for an error where an action has no number to give."""
    most = LARGEST_BY_ACTION.get(action)
    if most is None:
        raise ConfigError(path, f"{action} has no number to return", "Remove it.")
    if number > most:
        raise ConfigError(path, f"{number} is not between 0 and {most}")


def check_labels(process: Process, path: str) -> None:
    """Refuse a label that this kernel would not enforce.

    Raises:
        ConfigError: names the field and the missing module.
    """
    if process.get("apparmorProfile") and not has_apparmor():
        raise ConfigError(
            f"{path}.apparmorProfile",
            f'"{process["apparmorProfile"]}" cannot be applied: '
            "AppArmor is not enabled in this kernel",
            "Remove it (podman: --security-opt apparmor=unconfined).",
        )
    check_selinux(process.get("selinuxLabel", ""), f"{path}.selinuxLabel")


def check_selinux(label: str, path: str) -> None:
    """Refuse a label where SELinux is off, see `check_labels`."""
    if label and not has_selinux():
        raise ConfigError(
            path,
            f'"{label}": selinux label is specified in config, but selinux is disabled '
            "or not supported",
            "Remove it (podman: --security-opt label=disable).",
        )


def has_apparmor() -> bool:
    """Tell whether the kernel enforces AppArmor profiles."""
    try:
        with open(APPARMOR_ENABLED, "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def has_selinux() -> bool:
    """Tell whether the kernel has SELinux and a policy: without one it takes any label."""
    try:
        with open(OWN_LABEL, "rb") as file:
            if file.read().rstrip(b"\0\n") == b"kernel":  # no policy has been loaded
                return False
        fd = os.open(SELINUX_MOUNT_POINT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return syscalls.fstatfs(fd) & 0xFFFFFFFF == SELINUX_MAGIC
    except KernelError:
        return False
    finally:
        os.close(fd)
