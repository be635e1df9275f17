"""What the operations of stage 2 share: the plan, the root, the way to the parent.

Lives here: that, and the verified null device of the container.
"""

from __future__ import annotations

import os
import stat

from migrate import syscalls
from migrate.errors import StageError
from migrate.runtime import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.init.rootfs import Root

NULL_DEVICE = os.makedev(1, 3)


class Context:
    """Stage 2 at work.

    Attributes:
        plan: what to do, see `runtime.plan`.
        root: the container's root file system.
        channel: to the parent.
        empty: detached empty file system for masked directories; -1 before the first.
    """

    def __init__(self, plan: dict[str, Any], root: Root, channel: protocol.Channel) -> None:
        self.plan = plan
        self.root = root
        self.channel = channel
        self.empty = -1
        self._null = -1

    def null_device(self) -> int:
        """An O_PATH descriptor of the container's null device, checked to be it.

        Raises:
            StageError: there is none, or it is something else.
        """
        if self._null < 0:
            fd = self.root.open("dev/null", exact=True)
            status = os.fstat(fd)
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != NULL_DEVICE:
                raise StageError("/dev/null of the container is not the null device")
            self._null = fd
        return self._null

    def ask_for_tree(self, source: str, *, recursive: bool, mount: int | None = None) -> int:
        """A detached copy of a tree of the host's, made by the parent.

        Args:
            mount: number of the mount whose id map it is to have.
        """
        number = "" if mount is None else str(mount)
        self.channel.send("SOURCE", protocol.fields(source, "1" if recursive else "", number))
        _, fds = self.channel.expect("TREE")
        return fds[0]

    def reopen_null(self) -> None:
        """Replace the host's null device on descriptors 0 to 2 by the container's.

        Otherwise it would be a way out of the container, and a file of the host's
        in a checkpoint.
        """
        for number in range(3):
            try:
                status = os.fstat(number)
            except OSError:  # closed by the caller
                continue
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev != NULL_DEVICE:
                continue
            # Looked at before it is opened: opening a device may do things.
            seen = self.root.try_open("dev/null")
            if seen is None:  # a container without devices keeps the host's
                return
            if os.fstat(seen).st_rdev == NULL_DEVICE:
                fd = self.root.open("dev/null", os.O_RDWR | os.O_NOCTTY, exact=True)
                if os.fstat(fd).st_rdev == NULL_DEVICE:
                    os.dup2(fd, number)
                os.close(fd)
            os.close(seen)


def close_all_but(first: int, kept: int) -> None:
    """Close every descriptor from first on but one."""
    if kept > first:
        syscalls.close_range(first, kept - 1)
    syscalls.close_range(max(first, kept + 1))


def close_on_exec_from(first: int) -> None:
    """Let no descriptor from first on reach the payload (CVE-2024-21626)."""
    syscalls.close_range(first, flags=syscalls.CLOSE_RANGE_CLOEXEC)
