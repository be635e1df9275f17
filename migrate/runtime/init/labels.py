"""Security labels: what the payload runs as under AppArmor or SELinux.

Lives here: writing them for the next execve, and for the keys made before it. Must not
live here: whether the kernel has the module (`runtime.spec.confinement`). They are
written through a procfs that no path of the container leads to: what is mounted over
/proc of an image could swallow them, and the payload would run unconfined
(CVE-2019-16884, CVE-2025-52881).
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime.init.rootfs import own_procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ENOENT = 2
# `self` and `thread-self` are the only links on the way, and stay in the file system.
_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV


def label_keys(process: dict[str, Any]) -> None:
    """Label the key rings that are made from now on."""
    if process["selinux"]:
        proc = own_procfs()
        try:
            _write(proc, ("keycreate",), process["selinux"], "$.process.selinuxLabel")
        finally:
            os.close(proc)


def label_next_execve(process: dict[str, Any]) -> None:
    """Have the labels change with the next execve; before privileges are given up."""
    if not (process["apparmor"] or process["selinux"]):
        return
    proc = own_procfs()
    try:
        if process["apparmor"]:
            # The first is there where several modules are active at once, Linux 5.1.
            names = ("apparmor/exec", "exec")
            _write(proc, names, f"exec {process['apparmor']}", "$.process.apparmorProfile")
        if process["selinux"]:
            _write(proc, ("exec",), process["selinux"], "$.process.selinuxLabel")
    finally:
        os.close(proc)


def _write(proc: int, names: tuple[str, ...], value: str, path: str) -> None:
    """Write an attribute of this thread, under the first of its names that is there."""
    try:
        fd = _open(proc, names)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except KernelError as error:
        raise _refusal(path, value, error.errno) from None
    except OSError as error:
        raise _refusal(path, value, error.errno or 0) from None


def _open(proc: int, names: tuple[str, ...]) -> int:
    for name in names[:-1]:
        try:
            return syscalls.openat2(proc, f"thread-self/attr/{name}", os.O_WRONLY, resolve=_RESOLVE)
        except KernelError as error:
            if error.errno != _ENOENT:
                raise
    return syscalls.openat2(proc, f"thread-self/attr/{names[-1]}", os.O_WRONLY, resolve=_RESOLVE)


def _refusal(path: str, value: str, errno: int) -> StageError:
    reason = os.strerror(errno).lower()
    hint = "Load it into the kernel first." if errno == _ENOENT else ""
    return StageError(f'{path}: the kernel does not take "{value}": {reason}', hint)


def label_root(fd: int, label: str) -> None:
    """Label the top of a detached mount whose file system takes no label by option."""
    top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.setxattr(top, "security.selinux", label.encode() + b"\0")
    finally:
        os.close(top)
