"""A cgroup2 group that its container may divide itself.

Lives here: giving the group's directory and the files the kernel names to the
container's user. Must not live here: which container may (`runtime.group`). Source:
config-linux.md "Cgroup ownership", cgroups(7) "Cgroups v2 delegation".
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup import files

# What the kernel lists there may be the delegatee's; before Linux 4.15 it was these.
LIST = "/sys/kernel/cgroup/delegate"
BEFORE_THE_LIST = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads"


def give(directory: str, uid: int) -> None:
    """Make a group a user's, without its limits.

    Args:
        directory: the group's.
        uid: as the host numbers it.

    Raises:
        CgroupError: it cannot be given away.
    """
    names = files.read_if_there(LIST) or BEFORE_THE_LIST
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(fd, uid, -1)
            for name in names.split("\n"):
                if not name or "/" in name:
                    continue
                try:
                    os.chown(name, uid, -1, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # of a controller that the group does not have
        finally:
            os.close(fd)
    except OSError as error:
        raise CgroupError(
            f"control group {directory} cannot be given to user {uid}: "
            f"{str(error.strerror).lower()}"
        ) from None
