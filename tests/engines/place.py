"""A host of its own for an engine, and its terminal.

Lives here: the host with what an engine writes to outside its own folders, and
commands on a terminal in it. Must not live here: what is particular to an
engine (`podman`, `containerd`), pytest.

An engine is never started on the machine itself: its containers, mounts, control
groups and networks are in the namespaces of a host (`tests.support.hosts`) and end
with them.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.support import bundle, leaks
from tests.support.folders import CHECKOUT, PRIVATE_FOLDERS, mountpoint
from tests.support.hosts import Host
from tests.support.processes import Process

RUNTIME = os.environ.get("RUNTIME") or str(CHECKOUT / ".venv" / "bin" / "migrate")
ADDRESS = "10.77.0.9"
# Ranges for containers with a user namespace of their own, see subuid(5).
SUBORDINATE_IDS = "root:100000:65536\ncontainers:200000:1000000\n"
# What is the engines' own: their state, and their firewall's chains with counters.
NOT_CONTAINERS = ("file", "firewall rule")


@contextmanager
def engine_host(scratch: Path) -> Iterator[Host]:
    """A host with nothing on its wire, and with the machine's caches and id ranges its own."""
    cache, ids = scratch / "cache", scratch / "ids"
    cache.mkdir()
    ids.write_text(SUBORDINATE_IDS)
    binds = [(str(cache), "/var/cache")]
    binds += [(str(ids), path) for path in ("/etc/subuid", "/etc/subgid") if os.path.exists(path)]
    with ExitStack() as stack:
        for path in PRIVATE_FOLDERS.values():
            stack.enter_context(mountpoint(path))
        host = stack.enter_context(Host("engines", ADDRESS, scratch).up(binds))
        host.ip("link set lo up")
        yield host


def image_tree(folder: Path) -> Path:
    """Write a busybox image as a tar of its root file system, and return it."""
    tree = bundle.make_rootfs(folder / "tree")
    subprocess.run(["tar", "-C", tree, "-cf", folder / "image.tar", "."], check=True)
    return folder / "image.tar"


def snapshot(host: Host) -> leaks.Snapshot:
    """What is in a host that a container must not leave there."""
    return {
        kind: lines for kind, lines in leaks.of_host(host).items() if kind not in NOT_CONTAINERS
    }


class Terminal:
    """A command in a host with a terminal in front of it, as a person has one.

    Args:
        host: where it runs.
        argv: the command.
        size: rows and columns.
    """

    def __init__(self, host: Host, argv: Sequence[str], size: tuple[int, int] = (24, 80)) -> None:
        self._master, slave = os.openpty()
        self.resize(*size)
        # A session whose controlling terminal it is, or Ctrl-C and new sizes reach nobody.
        words = ["setsid", "--ctty", "--wait", *argv]
        self._process: Process = host.popen(words, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        """Give the window another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str, timeout_seconds: float = 20) -> str:
        """Read on until the pattern is shown, and return what it matched; forget what was."""
        deadline = time.monotonic() + timeout_seconds
        while not (found := re.search(pattern, self.shown)):
            self._read(deadline, f"no {pattern!r}")
        self.shown = self.shown[found.end() :]
        return found.group()

    def wait(self, timeout_seconds: float = 20) -> int:
        """Wait for the command's end and return its exit status."""
        deadline = time.monotonic() + timeout_seconds
        while (status := self._process.poll()) is None:
            try:
                self._read(deadline, "it does not end", patience_seconds=0.05)
            except OSError:
                continue
        return status

    def _read(self, deadline: float, what: str, patience_seconds: float = 1.0) -> None:
        ready, _, _ = select.select([self._master], [], [], patience_seconds)
        if ready:
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        elif time.monotonic() > deadline:
            raise TimeoutError(f"{what}; shown: {self.shown!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._master)
        self._process.__exit__()
