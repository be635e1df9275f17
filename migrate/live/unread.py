"""What a container has written to its terminal and nobody has read yet, on the source.

Lives here: finding the terminal's master among this host's processes, and reading what
is left in it after the commit. Must not live here: the terminal on the other host
(`live.terminal`). `live` only.

Whoever holds the master reads on until the end, so there mostly is nothing. But one that
is stopped, or waits for a slow person, leaves up to some 64 KiB in the kernel, which CRIU
does not see: the master is outside the container. Read before the commit, they would be
missing to the holder if it all came to nothing; so they go with the commit.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

from migrate import syscalls
from migrate.errors import KernelError

_PTMX = os.makedev(5, 2)
_MOST_BYTES = 64 << 10
_PART_BYTES = 4096
_PATIENCE_SECONDS = 0.2


class Unread:
    """The master of one container's terminal; found before the freeze, `close` it.

    Args:
        pid: of the container's first process.
    """

    def __init__(self, pid: int) -> None:
        self._master = _master_of(pid)

    def take(self) -> bytes:
        """Return what is left to be read; nothing writes to it any more.

        In a thread: if the holder is faster, the read waits for the terminal's end.
        """
        if self._master < 0:
            return b""
        found: list[bytes] = []
        reader = threading.Thread(target=_read, args=(os.dup(self._master), found), daemon=True)
        reader.start()
        reader.join(_PATIENCE_SECONDS)
        return b"".join(found)[:_MOST_BYTES]

    def close(self) -> None:
        """Let go of it."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def _read(master: int, found: list[bytes]) -> None:
    """Read what is there, and close the descriptor."""
    try:
        poll = select.poll()
        poll.register(master, select.POLLIN)
        while sum(map(len, found)) < _MOST_BYTES and any(
            events & select.POLLIN for _, events in poll.poll(0)
        ):
            found.append(os.read(master, _PART_BYTES))
    except OSError:
        pass
    finally:
        os.close(master)


def _master_of(pid: int) -> int:
    """Return a copy of the master of a process's terminal, -1 where nobody here has it."""
    try:
        slave = os.stat(f"/proc/{pid}/root/dev/console")
        terminals = os.stat(f"/proc/{pid}/root/dev/pts").st_dev
    except OSError:
        return -1
    index = os.minor(slave.st_rdev)
    for name in os.listdir("/proc"):
        if name.isdigit():
            number = _number_in(int(name), terminals, index)
            if number >= 0:
                with contextlib.suppress(OSError, KernelError):
                    return _copied(int(name), number)
    return -1


def _number_in(pid: int, terminals: int, index: int) -> int:
    """Return which descriptor of a process is that master, -1 for none."""
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if not os.readlink(f"/proc/{pid}/fd/{number}").endswith("ptmx"):
                    continue
                found = os.stat(f"/proc/{pid}/fd/{number}")
                if found.st_rdev == _PTMX and found.st_dev == terminals:
                    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
                        if f"tty-index:\t{index}\n" in file.read():
                            return int(number)
    return -1


def _copied(pid: int, number: int) -> int:
    """Return a copy of another process's descriptor."""
    process = syscalls.pidfd_open(pid)
    try:
        return syscalls.pidfd_getfd(process, number)
    finally:
        os.close(process)
