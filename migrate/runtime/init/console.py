"""The container's terminal.

Lives here: opening a pair of the container's own devpts, making it descriptors 0
to 2 and /dev/console, and handing its master to the parent. No step goes through
a name the container could exchange: the slave is had from the master by
TIOCGPTPEER, and mounted by descriptor (CVE-2025-52565).
"""

from __future__ import annotations

import fcntl
import os
import sys

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.init.context import Context


_ORDER = sys.byteorder


def set_up(context: Context, size: tuple[int, int] | None, *, make_node: bool) -> None:
    """Give the process a controlling terminal.

    Args:
        size: height and width in characters, if they are known.
        make_node: bind it on /dev/console: for the first process only.
    """
    master, slave, number = _open_pair(context)
    if size:
        window = b"".join(value.to_bytes(2, _ORDER) for value in (*size, 0, 0))
        fcntl.ioctl(slave, syscalls.TIOCSWINSZ, window)
    if make_node:
        _bind(context, slave)
    context.channel.send("CONSOLE", protocol.fields(f"/dev/pts/{number}"), (master,))
    os.close(master)
    fcntl.ioctl(slave, syscalls.TIOCSCTTY, 0)
    for descriptor in range(3):
        os.dup2(slave, descriptor)
    if slave > 2:
        os.close(slave)


def _open_pair(context: Context) -> tuple[int, int, int]:
    """Master, slave and number of a new pair."""
    try:
        pts = context.root.open("dev/pts", syscalls.O_PATH | os.O_DIRECTORY, exact=True)
        if syscalls.fstatfs(pts) != syscalls.DEVPTS_SUPER_MAGIC:
            raise StageError(
                "/dev/pts of the container is not a devpts",
                "Mount a devpts on /dev/pts, as `migrate spec` does.",
            )
        # On that very file system, where ptmx can be nothing else: another device
        # would not even be opened.
        flags = os.O_RDWR | os.O_NOCTTY
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS
        master = syscalls.openat2(pts, "ptmx", flags, resolve=resolve)
        os.close(pts)
    except KernelError as error:
        raise StageError(
            f"the container has no terminals of its own: {error}",
            "Mount a devpts on /dev/pts, as `migrate spec` does.",
        ) from None
    fcntl.ioctl(master, syscalls.TIOCSPTLCK, bytes(4))
    number = int.from_bytes(fcntl.ioctl(master, syscalls.TIOCGPTN, bytes(4)), _ORDER)
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    slave = fcntl.ioctl(master, syscalls.TIOCGPTPEER, flags)
    return master, slave, number


def _bind(context: Context, slave: int) -> None:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH
    tree = syscalls.open_tree(slave, b"", flags)
    target = context.root.make_target("/dev/console", is_directory=False, exact=True)
    syscalls.move_mount(tree, target)
    os.close(target)
    os.close(tree)
