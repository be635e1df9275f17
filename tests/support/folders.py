"""Which folders of the machine the hosts and the tests use, and how they leave them.

Lives here: what is writable, what each host has of its own, and making mount
points for that. Everything else of the machine is read-only for tests.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT_HOME = pwd.getpwuid(0).pw_dir
# Where the ssh programs of root look, whatever HOME says.
SSH_FOLDER = f"{ROOT_HOME}/.ssh"
PRIVATE_FOLDERS = {"ssh": SSH_FOLDER, "srv": "/srv", "var": "/var/lib/migrate"}


def writable_folders(*more: Path) -> list[str]:
    """Return what tests and hosts may change beside what is their own."""
    folders = {"/tmp", "/var/tmp", tempfile.gettempdir(), *map(str, (CHECKOUT, *more))}
    return sorted(folder for folder in folders if os.path.isdir(folder))


@contextmanager
def mountpoint(path: str) -> Iterator[None]:
    """Make a folder that something is mounted over; the last who needs it removes it.

    Removing a mount point takes away what is mounted there in every namespace, so
    whoever needs it holds a shared lock on the folder.
    """
    while True:
        made = not os.path.isdir(path)
        os.makedirs(path, mode=0o755, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.path.isdir(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
            break
        os.close(fd)  # another one removed it between the two calls
    try:
        yield
    finally:
        try:
            if made:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rmdir(path)
        except OSError:
            pass  # still needed by another one, or someone has put something there
        finally:
            os.close(fd)
