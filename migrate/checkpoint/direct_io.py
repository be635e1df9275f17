"""Whether devices write into a process's memory without its page tables.

Lives here: that one look. May be imported by `checkpoint` only.

A read(2) from a file opened with O_DIRECT has the device write into memory whose pages
were looked up before. If they are protected meanwhile, what arrives is no write that the
kernel notes (the same holds for its soft-dirty bits, which for that reason leave such
pages alone). So a process that can do this is not watched by the kernel.
"""

from __future__ import annotations

import os

from migrate.checkpoint import procfs

_AIO_RING = "/[aio]"
_DIRECT_FSTYPES = ("fuse", "9p", "virtiofs")
_HEAD_BYTES = 96


def reads_directly(pid: int) -> bool:
    """Tell whether a process has a file open with O_DIRECT, or a ring of io_setup(2).

    Or any file of a file system that may read like that by itself, such as FUSE.

    Raises:
        OSError: it has ended.
    """
    unusual = {
        str(mount.mount_id)
        for mount in procfs.mounts(pid)
        if mount.fstype.startswith(_DIRECT_FSTYPES)
    }
    folder = f"/proc/{pid}/fdinfo"
    for name in os.listdir(folder):
        try:
            with open(f"{folder}/{name}", encoding="ascii", errors="replace") as file:
                # pos: NUMBER, flags: NUMBER in octal, mnt_id: NUMBER, see proc_pid_fdinfo(5)
                words = file.read(_HEAD_BYTES).split()
        except FileNotFoundError:  # closed
            continue
        said = dict(zip(words[::2], words[1::2], strict=False))
        if int(said.get("flags:", "0"), 8) & os.O_DIRECT or said.get("mnt_id:") in unusual:
            return True
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        return any(_AIO_RING in line for line in file)
