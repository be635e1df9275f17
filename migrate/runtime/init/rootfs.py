"""The container's root: attached, resolved inside of, and pivoted to.

Lives here: the one way a path of the container becomes a descriptor, and pivot_root.
Must not live here: what is mounted. Every path goes through openat2 with
RESOLVE_IN_ROOT and is then used by descriptor, never by name again: the image, or
a container that shares a volume, may exchange any component at any moment
(CVE-2021-30465, CVE-2024-45310, CVE-2025-31133, CVE-2025-52565).
"""

from __future__ import annotations

import os
import stat

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ENOENT = 2
_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_EXACTLY = _INSIDE | syscalls.RESOLVE_NO_SYMLINKS


class Root:
    """The container's root file system.

    Attributes:
        fd: O_PATH descriptor of its top.
        proc: descriptor of a procfs nobody else can reach.
    """

    def __init__(self, fd: int, proc: int) -> None:
        self.fd = fd
        self.proc = proc

    def open(self, path: str, flags: int = syscalls.O_PATH, *, exact: bool = False) -> int:
        """A descriptor of what is at a path of the container.

        Args:
            path: absolute in the container.
            flags: O_* bits.
            exact: refuse symbolic links on the way and at the end.

        Raises:
            KernelError: ENOENT, ENOTDIR; ELOOP where exact meets a link.
        """
        resolve = _EXACTLY if exact else _INSIDE
        return syscalls.openat2(self.fd, path.lstrip("/") or ".", flags, resolve=resolve)

    def try_open(self, path: str, flags: int = syscalls.O_PATH) -> int | None:
        """As `open`, or None where nothing is there."""
        try:
            return self.open(path, flags)
        except KernelError as error:
            if error.errno in {_ENOENT, 20}:  # ENOTDIR
                return None
            raise

    def make_target(self, path: str, *, is_directory: bool, exact: bool = False) -> int:
        """A descriptor of a mount point, made component by component where missing."""
        try:
            fd = self.open(path, exact=exact)
        except KernelError as error:
            if error.errno != _ENOENT:
                raise
        else:
            if stat.S_ISDIR(os.fstat(fd).st_mode) != is_directory:
                kind = "no directory" if is_directory else "a directory"
                raise StageError(f"the mount point {path} is {kind}")
            return fd
        if is_directory:
            return self.make_directory(path, exact=exact)
        parent_path, _, name = path.rstrip("/").rpartition("/")
        parent = self.make_directory(parent_path, exact=exact)
        made = syscalls.openat2(
            parent, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o644, resolve=_EXACTLY
        )
        os.close(made)
        fd = syscalls.openat2(parent, name, syscalls.O_PATH, resolve=_EXACTLY)
        os.close(parent)
        return fd

    def make_directory(self, path: str, *, exact: bool = False) -> int:
        """A descriptor of a directory, made component by component where missing.

        What exists is resolved as the container would, links included; below the
        first missing name there is nothing to follow, so links are refused there.
        """
        names = [name for name in path.split("/") if name]
        missing: list[str] = []
        while True:
            try:
                fd = self.open("/".join(names), syscalls.O_PATH | os.O_DIRECTORY, exact=exact)
                break
            except KernelError as error:
                if error.errno != _ENOENT or not names:
                    raise
            missing.append(names.pop())
        for name in reversed(missing):
            try:
                os.mkdir(name, 0o755, dir_fd=fd)
            except FileExistsError:  # made meanwhile, or a dangling link, refused below
                pass
            inner = syscalls.openat2(fd, name, syscalls.O_PATH | os.O_DIRECTORY, resolve=_EXACTLY)
            os.close(fd)
            fd = inner
        return fd

    def parent_and_name(self, path: str) -> tuple[int, str]:
        """A descriptor of the directory a node is to be made in, and the node's name."""
        parent, _, name = path.rstrip("/").rpartition("/")
        return self.make_directory(parent), name


def attach(plan: dict[str, Any]) -> Root:
    """Make the root file system a mount of its own in this mount namespace.

    Order: the whole tree first stops sending mount events to the host, so that
    nothing below reaches it; the mount the rootfs lies on becomes private, which
    pivot_root asks for; then the rootfs, private, goes over itself.
    """
    host_root = os.open("/", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    propagation, recursive = plan["propagation"] or (syscalls.MS_SLAVE, True)
    syscalls.mount_setattr(host_root, propagation=propagation, recursive=recursive)
    os.close(host_root)
    below = os.open(plan["rootfs"], syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE | syscalls.AT_EMPTY_PATH
    tree = syscalls.open_tree(below, b"", flags)
    syscalls.mount_setattr(tree, propagation=syscalls.MS_PRIVATE, recursive=True)
    _make_mount_private(below)
    syscalls.move_mount(tree, below)
    os.close(below)
    return Root(tree, own_procfs())


def _make_mount_private(fd: int) -> None:
    """Make the mount a directory lies on private, found by walking up to its root."""
    at = os.dup(fd)
    os.set_inheritable(at, False)
    while not syscalls.statx_mount(at)[1]:
        up = os.open("..", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
        os.close(at)
        at = up
    syscalls.mount_setattr(at, propagation=syscalls.MS_PRIVATE)
    os.close(at)


def own_procfs() -> int:
    """A procfs of this pid namespace that no path leads to.

    Where a user namespace may not mount one (the host's is covered in places, or
    the pid namespace is the host's), the host's own is used, before the pivot.
    """
    try:
        context = syscalls.fsopen("proc")
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        fd = syscalls.fsmount(context)
        os.close(context)
    except KernelError:
        fd = os.open("/proc", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if syscalls.fstatfs(fd) != syscalls.PROC_SUPER_MAGIC or os.fstat(fd).st_ino != 1:
            raise StageError("/proc of the host is not procfs") from None
    return fd


def read_all(fd: int, most_bytes: int) -> bytes:
    """The rest of a file, as far as most_bytes."""
    parts = []
    while most_bytes > 0 and (part := os.read(fd, min(most_bytes, 1 << 20))):
        parts.append(part)
        most_bytes -= len(part)
    return b"".join(parts)


def pivot(root: Root) -> None:
    """Make the container's root the root, and let go of the host's, see pivot_root(2).

    Both are the working directory in turn, so that no name is needed for either.
    """
    old = os.open("/", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root.fd)
    syscalls.pivot_root(".", ".")
    # The old root now lies over the new one. Slave before the detach: unmounting
    # must not travel to the host.
    os.fchdir(old)
    syscalls.mount_setattr(old, propagation=syscalls.MS_SLAVE, recursive=True)
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.close(old)
    os.chdir("/")


def move_to_root(root: Root) -> None:
    """Do without pivot_root: on an initial ramfs there is nothing to pivot from.

    A chroot can be left by whoever holds a way to the old root; procfs and sysfs
    mounts of the host would be one, so they go first.
    """
    table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    lines = read_all(table, 16 << 20).decode("utf-8", "surrogateescape").splitlines()
    os.close(table)
    os.fchdir(root.fd)
    inside = syscalls.getcwd().decode("utf-8", "surrogateescape")
    for line in reversed(lines):
        fields, _, kind = line.partition(" - ")
        place = fields.split(" ")[4]
        if kind.split(" ")[0] in {"proc", "sysfs"} and not f"{place}/".startswith(f"{inside}/"):
            _hide(place)
    syscalls.mount(".", "/", None, syscalls.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _hide(place: str) -> None:
    """Detach a mount of the host's, or cover it where that is not allowed."""
    try:
        syscalls.mount(None, place, None, syscalls.MS_SLAVE | syscalls.MS_REC)
        syscalls.umount2(place, syscalls.MNT_DETACH)
    except KernelError as error:
        if error.errno not in {1, 22}:  # EPERM, EINVAL: locked by a user namespace
            raise
        syscalls.mount("tmpfs", place, "tmpfs", 0)
