"""Starting a restore before there is anything to restore.

Lives here: the gate. Must not live here: the restore itself. May be imported by
`checkpoint` only.

Three quarters of a small restore is CRIU's own start-up: processes, kernel features,
parsing itself. All of it is over when CRIU opens `inventory.img`, the first image it
reads and the last one a dump writes (criu/cr-restore.c, cr_restore_tasks). So until the
others are complete that name is a symbolic link to the reading end of a pipe of ours:
CRIU waits in read(2), and the real content opens the gate. Nothing of CRIU is changed
for it. Should this process die, CRIU reads the end of the file, or finds no file, and
ends by itself; a FIFO would leave it waiting for ever.
"""

from __future__ import annotations

import os

INVENTORY = "inventory.img"


class Gate:
    """Holds back a restore that was started early.

    Args:
        directory: descriptor of the image directory, which has no inventory yet;
            stays the caller's.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        os.symlink(f"/proc/{os.getpid()}/fd/{self._reading}", INVENTORY, dir_fd=directory)

    def open(self, inventory: bytes) -> None:
        """Let the restore go on, which finds a complete image directory.

        Args:
            inventory: content of `inventory.img`; some hundred bytes, so that a pipe
                takes it whether CRIU is there already or not.
        """
        os.write(self._writing, inventory)
        os.close(self._writing)  # CRIU reads ahead, up to the end
        self._writing = -1
        # A regular file for whoever restores from this directory again; CRIU, should it
        # come late, may read either.
        temporary = f".{INVENTORY}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self._directory)
        try:
            os.write(descriptor, inventory)
        finally:
            os.close(descriptor)
        os.rename(temporary, INVENTORY, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def close(self) -> None:
        """Make a restore that is still held back fail; does nothing to one let through."""
        for descriptor in (self._writing, self._reading):
            if descriptor >= 0:
                os.close(descriptor)
        self._writing = self._reading = -1
