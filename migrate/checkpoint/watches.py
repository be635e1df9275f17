"""Watches on files, found again as CRIU will have to find them.

Lives here: reading the marks of inotify(7) and fanotify(7), and looking for the files
behind them. May be imported by `checkpoint` only.

The kernel tells a mark's file system and a handle of the file, no path. CRIU opens the
handle in a mount of that file system, see open_by_handle_at(2), and takes the path from
there: so it fails on overlay, on /proc, and where nothing of it is mounted any more.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from migrate import syscalls
from migrate.checkpoint import procfs
from migrate.checkpoint.facts import Obstacle
from migrate.errors import KernelError

_KINDS = ("inotify", "fanotify")


def obstacles(pid: int, number: int, name: str) -> Iterator[Obstacle]:
    """Yield the watches of one descriptor that CRIU cannot carry.

    Args:
        number: the descriptor's.
        name: how the process is called in messages.

    Raises:
        FileNotFoundError, ProcessLookupError: it was closed, or the process has ended.
    """
    for line in procfs.read(f"/proc/{pid}/fdinfo/{number}").splitlines():
        kind, *words = line.split()
        mark = dict(word.split(":", 1) for word in words if ":" in word)
        if kind not in _KINDS or "sdev" not in mark:
            continue
        device = int(mark["sdev"], 16)
        mounts = [
            each
            for each in procfs.mounts(pid)
            if each.device == f"{device >> 20}:{device & 0xFFFFF}"
        ]
        if not any(_is_found(pid, each.point, mark) for each in mounts):
            kinds = ", ".join(sorted({each.fstype for each in mounts})) or "not mounted any more"
            yield Obstacle(
                verdict="refuse",
                what=f"process {name} watches inode {int(mark['ino'], 16)} by {kind} (descriptor "
                f"{number}), which CRIU cannot find again on its file system ({kinds})",
                hint="Let it end the watch first, or keep what it watches on a file system such "
                "as tmpfs or ext4.",
            )


def _is_found(pid: int, point: str, mark: dict[str, str]) -> bool:
    """Tell whether a mark's file can be opened by its handle in a mount."""
    if "f_handle" not in mark:
        return False
    path = f"/proc/{pid}/root{point}"
    with contextlib.suppress(OSError, ValueError, KernelError):
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return False  # nothing that opening could set off
        mount = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            handle = bytes.fromhex(mark["f_handle"])
            kind = int(mark["fhandle-type"], 16)
            os.close(syscalls.open_by_handle_at(mount, kind, handle, os.O_PATH | os.O_CLOEXEC))
        finally:
            os.close(mount)
        return True
    return False
