"""Keeping two containers that are being made out of one control group.

Lives here: the lock a new container's directory is under until somebody is in it.
Imported through `migrate.runtime.cgroup`.

Two creates that find the same cgroup empty at the same instant would both move in, and
the one that fails then kills the other's processes. So the directory is locked by
flock(2), which the file systems of control groups have. No record names a directory
before its claim: whoever is killed without it has nothing that could be taken for its own.
"""

from __future__ import annotations

import fcntl
import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Claim:
    """The lock; to be closed once the container's first process is in the cgroup.

    Args:
        fd: of the locked directory; -1 where a container has no cgroup.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Let others look who is in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def claim(paths: Mapping[str, str]) -> Claim:
    """Make the directories for a new container, and keep every other `create` out.

    Raises:
        CgroupError: they cannot be made, somebody is in one, or another `create` is just
            moving in. None of the directories is the caller's then.
    """
    tree.refuse_occupied(paths)
    deciding = tree.tree_of_processes(paths)
    while True:
        new: dict[str, str] = {}
        fd = -1
        try:
            tree.make(paths, new=new)
            if deciding is not None:
                fd = os.open(deciding, _DIRECTORY)
                _lock(fd, deciding)
                tree.refuse_occupied(paths)  # who had the lock before may have joined
        except FileNotFoundError:
            # Removed meanwhile, by whoever had it before.
            if fd >= 0:
                os.close(fd)
        except _Taken:
            # What is there is now its holder's, whoever made it.
            os.close(fd)
            raise
        except BaseException:
            tree.destroy(new)
            if fd >= 0:
                os.close(fd)
            raise
        else:
            return Claim(fd)


class _Taken(CgroupError):
    """Another `create` holds the directory."""


def _lock(fd: int, directory: str) -> None:
    """Take the lock, now or not at all: who holds it is about to move in."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _Taken(
            f"control group {directory} is not empty: another container is being made in it",
            "Give the container a cgroupsPath of its own.",
        ) from None
    if not os.path.samestat(os.fstat(fd), os.stat(directory)):
        raise FileNotFoundError(directory)  # and made again: the lock is on what is gone
