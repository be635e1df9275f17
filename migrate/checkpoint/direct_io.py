"""Whether devices write into a process's memory without its page tables.

Lives here: that one look. May be imported by `checkpoint` only.

A read(2) from a file opened with O_DIRECT has the device write into memory whose pages
were looked up before. If they are protected meanwhile, what arrives is no write that the
kernel notes (the same holds for its soft-dirty bits, which for that reason leave such
pages alone). So a process that can do this is not watched by the kernel.
"""

from __future__ import annotations

import os

_AIO_RING = "/[aio]"


def reads_directly(pid: int) -> bool:
    """Tell whether a process has a file open with O_DIRECT, or a ring of io_setup(2).

    Raises:
        OSError: it has ended.
    """
    folder = f"/proc/{pid}/fdinfo"
    for name in os.listdir(folder):
        try:
            with open(f"{folder}/{name}", encoding="ascii", errors="replace") as file:
                head = file.read(64)
        except FileNotFoundError:  # closed
            continue
        # pos: NUMBER, flags: NUMBER in octal, see proc_pid_fdinfo(5)
        _, _, rest = head.partition("flags:")
        if rest and int(rest.split()[0], 8) & os.O_DIRECT:
            return True
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        return any(_AIO_RING in line for line in file)
