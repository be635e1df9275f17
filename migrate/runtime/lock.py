"""Sole use of one container, across processes.

Lives here: flock(2) with a deadline, on the file `lock` of the container's directory,
which names the holder for people. Must not live here: anything about the container.
Made by `Store.lock` (`state`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from migrate.errors import ContainerNotFound, Locked, StateError
from migrate.runtime import statedir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

FIRST_PAUSE_SECONDS = 0.0005
LONGEST_PAUSE_SECONDS = 0.02


class Lock:
    """The lock of one container, as a context manager.

    When the directory was made for it (`create`) and no record is in it at the end, the
    directory goes again: a `create` that failed leaves nothing.

    Args:
        path: the container's directory.
        root: named in an error.
        container_id: its id.
        command: what the holder is doing, named to whoever waits in vain.
        timeout_seconds: how long another holder is waited for.
        create: make the directory where there is none.

    Attributes:
        fd: the locked descriptor, close-on-exec. A child that is forked and does not
            exec shares the lock, and must close it.
    """

    def __init__(
        self,
        path: str,
        root: str,
        container_id: str,
        *,
        command: str,
        timeout_seconds: float,
        create: bool,
    ) -> None:
        self.fd = -1
        self._path = path
        self._root = root
        self._id = container_id
        self._command = command
        self._timeout_seconds = timeout_seconds
        self._create = create

    def __enter__(self) -> Self:
        """Wait for the lock, at most until the deadline.

        Raises:
            ContainerNotFound: there is no such container, or it was deleted meanwhile.
            Locked: the deadline passed; the message names the holder. Or the container
                is being moved.
            StateError: something else is in the directory's place.
        """
        deadline = time.monotonic() + self._timeout_seconds
        pause = FIRST_PAUSE_SECONDS
        while not self._try():
            if time.monotonic() >= deadline:
                raise Locked(
                    f'container "{self._id}" is in use by {self._holder()}',
                    "Wait for that command, or end it.",
                )
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._sign()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go; closing alone would not, while a forked child still has it."""
        try:
            if self._create:
                self._remove_unused()
        finally:
            self._unlock(self.fd)
            self.fd = -1

    def _sign(self) -> None:
        """Name ourselves to whoever waits; a full disk must not keep us from working."""
        try:
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, f"{os.getpid()} {self._command}\n".encode(), 0)
        except OSError:
            return

    def _try(self) -> bool:
        """Take the lock if it is free and still the container's own."""
        try:
            if self._create:
                os.makedirs(self._root, 0o700, exist_ok=True)
                self._make_directory()
            directory = statedir.open_directory(self._path)
        except FileNotFoundError:
            if self._create:
                return self._refuse_odd()
            raise ContainerNotFound(self._id, self._root) from None
        try:
            return self._try_in(directory)
        finally:
            os.close(directory)

    def _make_directory(self) -> None:
        """Make the container's directory if nothing is there."""
        try:
            os.mkdir(self._path, 0o700)
        except FileExistsError:
            return

    def _refuse_odd(self) -> bool:
        """Go on waiting where the directory was only just removed; else say what is there."""
        try:
            mode = os.lstat(self._path).st_mode  # once: others make and remove it meanwhile
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(mode):
            raise StateError(f"{self._path} is a symbolic link", "Look at what is there.")
        if not stat.S_ISDIR(mode):
            raise StateError(f"{self._path} is no directory", "Look at what is there.")
        return False

    def _try_in(self, directory: int) -> bool:
        """Take the lock in a directory that is open."""
        try:
            names = os.listdir(directory)  # once: another `create` may come or go meanwhile
        except FileNotFoundError:  # removed while we came in
            names = []
        if statedir.RECORD not in names and statedir.LOCK not in names:
            if not self._create:
                raise ContainerNotFound(self._id, self._root)
            if names:
                raise StateError(
                    f"{self._path} is there and holds what is no container of this program",
                    "Choose another id or another --root.",
                )
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(statedir.LOCK, flags, 0o600, dir_fd=directory)
        except FileNotFoundError:  # the directory was removed while we came in
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        if not self._is_still_there(fd):
            self._unlock(fd)
            return False
        try:
            self._refuse_moving(directory)
        except BaseException:
            self._unlock(fd)
            raise
        self.fd = fd
        return True

    def _is_still_there(self, fd: int) -> bool:
        """Tell whether the locked file is the one in the container's directory now."""
        try:
            there = os.stat(f"{self._path}/{statedir.LOCK}", follow_symlinks=False)
        except FileNotFoundError:
            return False
        mine = os.fstat(fd)
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def _refuse_moving(self, directory: int) -> None:
        """Keep away from a container that is being moved: a thaw could run it twice."""
        if not statedir.has(directory, statedir.MIGRATION):
            return
        try:
            words = statedir.read(directory, statedir.MIGRATION).decode(errors="replace")
        except OSError:
            words = ""
        raise moving(self._id, words)

    def _remove_unused(self) -> None:
        """Remove the directory where no record came into it."""
        try:
            directory = statedir.open_directory(self._path)
        except FileNotFoundError:
            return
        try:
            if statedir.has(directory, statedir.RECORD) or statedir.empty(directory):
                return
        finally:
            os.close(directory)
        try:
            os.rmdir(self._path)
        except OSError as error:
            # The next `create` is in it already, or has come and gone.
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise

    def _holder(self) -> str:
        """Name who has the lock, in words."""
        try:
            directory = statedir.open_directory(self._path)
        except FileNotFoundError:
            return "another command"
        try:
            text = statedir.read(directory, statedir.LOCK).decode(errors="replace").strip()
        except OSError:
            text = ""
        finally:
            os.close(directory)
        pid, _, command = text.partition(" ")
        if not pid.isdigit():
            return "another command"
        return f"`migrate {command} {self._id}` (pid {pid})" if command else f"pid {pid}"

    @staticmethod
    def _unlock(fd: int) -> None:
        """Let go of a descriptor and of its lock."""
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def moving(container_id: str, words: str) -> Locked:
    """Return the error for a container that is being moved.

    Args:
        words: to or from whom, as `live` wrote it.
    """
    where = " ".join(words.split())
    return Locked(
        f'container "{container_id}" is being moved{f" {where}" if where else ""}',
        f"Wait for it, or settle a move that was cut off: `migrate recover {container_id}`.",
    )
