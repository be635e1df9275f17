"""Mounts, by descriptor and by name.

Lives here: one function a call, named as its man page. Imported through
`migrate.syscalls`.
"""

from __future__ import annotations

import os
import sys
from _ctypes import get_errno

from migrate.errors import KernelError
from migrate.syscalls.call import Long, call, function, syscall, to_c
from migrate.syscalls.constants import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    FSPICK_CLOEXEC,
    FSPICK_EMPTY_PATH,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
)

# The same number on every architecture.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_FSPICK = 433
_MOUNT_SETATTR = 442

# Older than the common numbers: x86-64, and what the others took over from arm64.
_IS_X86 = os.uname().machine == "x86_64"
_PIVOT_ROOT = 155 if _IS_X86 else 41

_mount = function("mount")
_umount2 = function("umount2")


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """Set up a file system context, see fsconfig(2).

    Args:
        fd: what fsopen returned.
        command: FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING or FSCONFIG_CMD_CREATE.
        key: option's name.
        value: option's value, for FSCONFIG_SET_STRING.

    Raises:
        KernelError: with what the kernel wrote to the context's log as subject.
    """
    if syscall(Long(_FSCONFIG), Long(fd), Long(command), to_c(key), to_c(value), Long(0)) < 0:
        errno = get_errno()
        subject = key or "create"
        if value is not None:
            subject = f"{key}={value}"
        raise KernelError("fsconfig", _with_log(subject, fd), errno)


def _with_log(subject: str, fd: int) -> str:
    """Append the messages a file system context holds, where there are any."""
    try:
        log = os.read(fd, 1024).decode("utf-8", "replace").strip()
    except OSError:
        return subject
    return f"{subject} ({log[2:] if log[1:2] == ' ' else log})"


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of a created file system context, see fsmount(2)."""
    return call(syscall, "fsmount", fd, _FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)


def fsopen(kind: str) -> int:
    """A context for a new mount of that file system type, see fsopen(2)."""
    return call(syscall, "fsopen", kind, _FSOPEN, kind, FSOPEN_CLOEXEC)


def fspick(dirfd: int) -> int:
    """A context for reconfiguring the file system of a mounted root, see fspick(2)."""
    flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH
    return call(syscall, "fspick", dirfd, _FSPICK, dirfd, b"", flags)


def mount(
    source: str | bytes | None,
    target: str | bytes,
    kind: str | None,
    flags: int,
    data: str | None = None,
) -> None:
    """Mount, or change a mount, by name; see mount(2). Prefer the fd-based calls."""
    call(_mount, "mount", target, source, target, kind, flags, data)


def mount_setattr(
    dirfd: int,
    path: str | bytes = b"",
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns_fd: int = 0,
) -> None:
    """Change a mount's attributes or propagation, see mount_setattr(2), Linux 5.12.

    Args:
        dirfd: descriptor of the mount (or of a directory the path starts from).
        path: empty for the mount of dirfd itself.
        attr_set: MOUNT_ATTR_* bits to set.
        attr_clr: MOUNT_ATTR_* bits to clear.
        propagation: one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, or 0.
        recursive: the whole tree of mounts.
        userns_fd: user namespace for MOUNT_ATTR_IDMAP.
    """
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    fields = (attr_set, attr_clr, propagation, userns_fd)
    attributes = b"".join(v.to_bytes(8, sys.byteorder) for v in fields)
    call(
        syscall,
        "mount_setattr",
        path or dirfd,
        _MOUNT_SETATTR,
        dirfd,
        path,
        flags,
        attributes,
        len(attributes),
    )


def move_mount(from_fd: int, to_dirfd: int, to_path: str | bytes = b"") -> None:
    """Attach the mount of from_fd at a place, see move_mount(2), Linux 5.2.

    Args:
        from_fd: descriptor of a (detached) mount.
        to_dirfd: descriptor of the mount point, or what to_path starts from.
        to_path: empty for to_dirfd itself.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    call(
        syscall,
        "move_mount",
        to_path or to_dirfd,
        _MOVE_MOUNT,
        from_fd,
        b"",
        to_dirfd,
        to_path,
        flags,
    )


def open_tree(dirfd: int, path: str | bytes, flags: int) -> int:
    """A descriptor of a mount, or of a detached copy of it, see open_tree(2).

    Args:
        dirfd: descriptor the path starts from.
        path: empty together with AT_EMPTY_PATH for dirfd itself.
        flags: OPEN_TREE_CLONE for a copy, with AT_RECURSIVE of the whole tree;
            OPEN_TREE_CLOEXEC is always added.
    """
    return call(
        syscall,
        "open_tree",
        path or dirfd,
        _OPEN_TREE,
        dirfd,
        path,
        flags | OPEN_TREE_CLOEXEC,
    )


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root mount of the mount namespace, see pivot_root(2)."""
    call(syscall, "pivot_root", new_root, _PIVOT_ROOT, new_root, put_old)


def umount2(target: str | bytes, flags: int = 0) -> None:
    """Detach a mount, see umount2(2)."""
    call(_umount2, "umount2", target, target, flags)
