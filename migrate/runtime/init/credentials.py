"""Who the payload is: key ring, user, groups, capabilities.

Lives here: taking privileges away, in the order the kernel needs. Must not live
here: what they should be (`runtime.plan`).
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEY_USER_SEARCH = 0x00080000
_CAP_SYS_ADMIN = 1 << 21


def join_session_keyring(name: str) -> None:
    """Have a key ring of the container's own, not the caller's."""
    try:
        ring = syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING, name.encode())
        buffer = bytearray(4096)
        size = syscalls.keyctl(syscalls.KEYCTL_DESCRIBE, ring, buffer, len(buffer))
        # "keyring;UID;GID;PERMISSIONS;NAME"
        permissions = int(bytes(buffer[: size - 1]).split(b";")[3], 16)
        syscalls.keyctl(syscalls.KEYCTL_SETPERM, ring, permissions | _KEY_USER_SEARCH)
    except KernelError as error:
        if error.errno == 38:  # ENOSYS: a kernel without key rings has none to leak
            return
        raise StageError(
            f"unable to join session keyring: {error}",
            "Free keys (/proc/key-users), or give --no-new-keyring.",
        ) from None


def apply(process: dict[str, Any]) -> None:
    """Become the user of the plan, with exactly its capabilities.

    Order: the bounding set needs CAP_SETPCAP, so it shrinks first; KEEPCAPS lets
    the permitted set outlive setresuid; the ambient set is raised last, out of what
    is then both permitted and inheritable (capabilities(7)). What the caller itself
    lacks cannot be granted and is left out, as the runtime-spec asks.

    Where a system call filter is still to be loaded without no_new_privs, the
    CAP_SYS_ADMIN for it stays. It is this process's alone: what a program gets by
    execve comes of the bounding, inheritable and ambient sets, not of the permitted one.
    """
    sets = process["capabilities"]
    number = 0
    while True:
        try:
            is_bound = syscalls.prctl(syscalls.PR_CAPBSET_READ, number)
        except KernelError:  # EINVAL: past the last capability of this kernel
            break
        if is_bound and not sets["bounding"] >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        number += 1
    _, held, _ = syscalls.capget()
    permitted = sets["permitted"] & held
    effective = sets["effective"] & permitted
    inheritable = sets["inheritable"] & held
    _become(process)
    kept = 0
    if process["filtered"] and not process["no_new_privileges"]:
        kept = held & _CAP_SYS_ADMIN
    syscalls.capset(effective | kept, permitted | kept, inheritable)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    ambient = sets["ambient"] & permitted & inheritable
    for number in range(ambient.bit_length()):
        if ambient >> number & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
    # A change of ids resets it to the system's default; until execve this process
    # holds more than the payload.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _become(process: dict[str, Any]) -> None:
    uid, gid = process["uid"], process["gid"]
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    try:
        _own_stdio(uid)
        _set_groups(process)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise StageError(
            f"cannot become user {uid} and group {gid}: {str(error.strerror).lower()}",
            "Map the ids in the user namespace." if error.errno == 22 else "",
        ) from None
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)


def _set_groups(process: dict[str, Any]) -> None:
    try:
        os.setgroups(process["groups"])
    except PermissionError:
        # A user namespace made without privileges may not drop groups
        # (user_namespaces(7)); asked for, they would be missing.
        if process["groups"] or not process["may_keep_groups"]:
            raise


def _own_stdio(uid: int) -> None:
    """Let the user open its own standard streams again, as /dev/stdout does."""
    for number in range(3):
        try:
            status = os.fstat(number)
            # /dev/null belongs to everybody.
            if status.st_uid != uid and status.st_rdev != os.makedev(1, 3):
                os.fchown(number, uid, -1)
        except OSError:
            # Closed; or of a file system, or of a user outside the user namespace,
            # that has no owner to give.
            continue


def home_of(passwd: bytes, uid: int) -> str:
    """The home directory of a user in the text of /etc/passwd, "/" without one."""
    for line in passwd.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == b"%d" % uid and fields[5]:
            return fields[5].decode("utf-8", "surrogateescape")
    return "/"
