"""Stage 1: leave the host's namespaces.

Lives here: joining by path or by descriptor, making new ones, the user
namespace's identity. Must not live here: what is set up inside of them.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import sys

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.protocol import Channel

_EPERM = 1
# linux/sockios.h and net/if.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
IFNAMSIZ = 16
IFREQ_BYTES = 40


def enter(channel: Channel, plan: dict[str, Any], fds: list[int]) -> None:
    """Join and make every namespace of the plan but a new cgroup namespace.

    Args:
        channel: to the parent, which writes the id maps.
        plan: see `runtime.plan`.
        fds: for `exec`, the namespaces themselves, in the plan's order.

    Order: all paths are opened while they still mean what the plan says. A user
    namespace comes after those that only the host's root may join, and before
    those that only its own root may. The mount namespace is last of the joined
    ones, since it changes what every path means.
    """
    opened = [
        (kind, _check(fds[at], path, kind) if plan["stage"] == "exec" else _open(path, kind), path)
        for at, (kind, path) in enumerate(plan["join"])
    ]
    late = []
    for kind, fd, path in opened:
        if kind in _LATE_ORDER:
            late.append((kind, fd, path))
            continue
        try:
            syscalls.setns(fd, kind)
        except KernelError as error:
            if error.errno != _EPERM:
                raise StageError(f"cannot join the namespace {path}: {error}") from None
            late.append((kind, fd, path))
    late.sort(key=lambda item: _LATE_ORDER.get(item[0], 1))
    for kind, fd, path in late:
        try:
            syscalls.setns(fd, kind)
        except KernelError as error:
            raise StageError(f"cannot join the namespace {path}: {error}") from None
        if kind == syscalls.CLONE_NEWUSER:
            become_root()
    if plan["unshare"] & syscalls.CLONE_NEWUSER:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        channel.send("MAPS")
        channel.expect("MAPPED")
        become_root()
    _make(plan)


_LATE_ORDER = {syscalls.CLONE_NEWUSER: 0, syscalls.CLONE_NEWNS: 2}


def _make(plan: dict[str, Any]) -> None:
    """Make the new namespaces, and set the clocks before the first process is in."""
    rest = plan["unshare"] & ~syscalls.CLONE_NEWUSER
    clocks = -1
    if plan["time_offsets"]:
        # In a user namespace, what is not dumpable belongs to the host's root.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        clocks = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        if syscalls.fstatfs(clocks) != syscalls.PROC_SUPER_MAGIC:
            raise StageError("/proc is not procfs")
    if rest:
        try:
            syscalls.unshare(rest)
        except KernelError as error:
            raise StageError(
                f"cannot make namespaces: {error}",
                "Run as root, or give the container a user namespace."
                if error.errno == _EPERM
                else "",
            ) from None
    if rest & syscalls.CLONE_NEWNET:
        _raise_loopback()
    if clocks >= 0:
        _set_clocks(clocks, plan["time_offsets"])
        os.close(clocks)
    # From the fork on, the process may be seen in a pid namespace that others live in.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _set_clocks(fd: int, offsets: str) -> None:
    """Write the offsets, see time_namespaces(7)."""
    try:
        os.write(fd, offsets.encode())
    except OSError as error:
        raise StageError(
            f"cannot set the clocks of the time namespace: {str(error.strerror).lower()}",
            "No clock may begin below zero or end beyond 146 years: see $.linux.timeOffsets.",
        ) from None


def _raise_loopback() -> None:
    """Let the container reach itself; nobody outside does this for it, see netdevice(7)."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = b"lo".ljust(IFNAMSIZ, b"\0")
    flags = int.from_bytes(
        fcntl.ioctl(control, SIOCGIFFLAGS, request.ljust(IFREQ_BYTES, b"\0"))[IFNAMSIZ:][:2],
        sys.byteorder,
    )
    request += (flags | IFF_UP).to_bytes(2, sys.byteorder)
    fcntl.ioctl(control, SIOCSIFFLAGS, request.ljust(IFREQ_BYTES, b"\0"))
    control.close()


def _open(path: str, kind: int) -> int:
    """A namespace's descriptor; that it is one of the right kind is checked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StageError(
            f"cannot join the namespace {path}: {str(error.strerror).lower()}"
        ) from None
    return _check(fd, path, kind)


def _check(fd: int, path: str, kind: int) -> int:
    if syscalls.fstatfs(fd) != syscalls.NSFS_MAGIC:
        raise StageError(f"cannot join {path}: it is no namespace")
    if fcntl.ioctl(fd, syscalls.NS_GET_NSTYPE) != kind:
        raise StageError(f"cannot join {path}: it is a namespace of another kind")
    return fd


def fork() -> int:
    """Fork into the namespaces that only a child can be in.

    Raises:
        StageError: the cgroup has no room for a task.
    """
    try:
        return os.fork()
    except OSError as error:
        raise StageError(
            f"cannot fork: {str(error.strerror).lower()}",
            "Raise the limit of tasks (pids.limit) of the container or of its caller.",
        ) from None


def become_root() -> None:
    """Be root of the user namespace just entered, with all its privileges."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise StageError(
            f"cannot become root of the user namespace: {str(error.strerror).lower()}",
            "Map id 0 in uidMappings and gidMappings.",
        ) from None
    # Who lives there already may trace us, where it sees our pid, while most of us is
    # still the host's: the mount namespace is joined last (CVE-2016-9962).
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
