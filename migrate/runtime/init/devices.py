"""Device nodes and the links every program expects in /dev.

Lives here: making them. Which ones is the plan's; see runtime-spec
config-linux.md, "Default Devices".
"""

from __future__ import annotations

import os
import stat

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.init.context import Context

KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def device(context: Context, node: dict[str, Any]) -> None:
    """Make one node; in a user namespace, where mknod is refused, bind the host's."""
    path = node["path"]
    kind = KINDS[node["type"]]
    number = os.makedev(node["major"], node["minor"]) if node["type"] != "p" else 0
    if context.plan["in_user_namespace"] and node["type"] != "p":
        _bind(context, path, (kind, number))
        return
    parent, name = context.root.parent_and_name(path)
    try:
        os.mknod(name, kind | node["mode"], number, dir_fd=parent)
    except FileExistsError:
        _check_same(parent, name, path, (kind, number))
    except PermissionError:
        raise StageError(
            f"cannot make the device {path}: operation not permitted",
            "Run with CAP_MKNOD, or give the container a user namespace.",
        ) from None
    else:
        # Not through the name again: another process may have put a link there.
        fd = syscalls.openat2(parent, name, syscalls.O_PATH, resolve=syscalls.RESOLVE_NO_SYMLINKS)
        status = os.fstat(fd)
        if (stat.S_IFMT(status.st_mode), status.st_rdev) != (kind, number):
            raise StageError(f"{path} was exchanged while it was made")
        if (node["uid"], node["gid"]) != (0, 0):
            os.chown(name, node["uid"], node["gid"], dir_fd=parent, follow_symlinks=False)
        os.close(fd)
    os.close(parent)


def link(context: Context, path: str, target: str) -> None:
    """Make a symbolic link; one that is there already is left."""
    parent, name = context.root.parent_and_name(path)
    try:
        os.symlink(target, name, dir_fd=parent)
    except FileExistsError:
        pass
    os.close(parent)


def ptmx(context: Context) -> None:
    """Let /dev/ptmx lead to the container's own terminals, whatever was there."""
    parent, name = context.root.parent_and_name("/dev/ptmx")
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    os.symlink("pts/ptmx", name, dir_fd=parent)
    os.close(parent)


def _check_same(parent: int, name: str, path: str, wanted: tuple[int, int]) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (stat.S_IFMT(status.st_mode), status.st_rdev) != wanted:
        raise StageError(
            f"{path} exists and is not the device",
            "Remove it from the root file system, or mount a tmpfs on /dev.",
        )


def _bind(context: Context, path: str, wanted: tuple[int, int]) -> None:
    try:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    except KernelError as error:
        raise StageError(f"cannot bind the device {path}: {error}") from None
    status = os.fstat(tree)
    if (stat.S_IFMT(status.st_mode), status.st_rdev) != wanted:
        raise StageError(
            f"{path} of the host is not the device that is asked for",
            "In a user namespace a device is the host's of the same path: give its numbers.",
        )
    target = context.root.make_target(path, is_directory=False)
    syscalls.move_mount(tree, target)
    os.close(target)
    os.close(tree)


OPERATIONS = {"device": device, "link": link, "ptmx": ptmx}
