"""Removing a tree of a migration, and nothing but that tree.

Lives here: one function. Must not live here: what is removed when. `live` only.

A killed restore may have left the root file system mounted inside a folder of ours,
and a container's root may have anything mounted in it. What is mounted somewhere in
the tree is somebody else's: it is never entered.
"""

from __future__ import annotations

import errno
import os

from migrate import syscalls
from migrate.errors import KernelError, MigrationError

_BENEATH = syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it; a missing one is no error.

    Raises:
        MigrationError: something is mounted in it, or it cannot be removed; what could
            be removed before that is gone.
    """
    parent, name = os.path.split(os.path.abspath(path))
    try:
        outside = os.open(parent, _DIRECTORY & ~os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    # The directories we are in, outermost first; each name is one of the one before.
    inside: list[tuple[int, str]] = [(outside, "")]
    try:
        _enter(inside, name, path)
        while len(inside) > 1:
            inner = _unlink_files(inside[-1][0], path)
            if inner is not None:
                _enter(inside, inner, path)
                continue
            fd, done = inside.pop()
            os.close(fd)
            os.rmdir(done, dir_fd=inside[-1][0])
    except FileNotFoundError:
        return
    except OSError as error:
        raise MigrationError(
            f"{path} cannot be removed: {(error.strerror or str(error)).lower()}",
            "Remove it by hand, then run recover again.",
        ) from error
    finally:
        for fd, _ in inside:
            os.close(fd)


def _enter(inside: list[tuple[int, str]], name: str, path: str) -> None:
    """Open a directory of the innermost one; a mount point is refused."""
    try:
        fd = syscalls.openat2(inside[-1][0], name, _DIRECTORY, resolve=_BENEATH)
    except KernelError as error:
        if error.errno == errno.EXDEV:
            raise MigrationError(
                f"{path} cannot be removed: something is mounted on {name} in it",
                "Unmount it, then run recover again.",
            ) from None
        raise OSError(error.errno, os.strerror(error.errno)) from None
    inside.append((fd, name))


def _unlink_files(fd: int, path: str) -> str | None:
    """Unlink what is no directory; return the name of a directory met, if any."""
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            try:
                os.unlink(entry.name, dir_fd=fd)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise MigrationError(
                        f"{path} cannot be removed: something is mounted on {entry.name} in it",
                        "Unmount it, then run recover again.",
                    ) from None
                raise
    return None
