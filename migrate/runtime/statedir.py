"""One container's directory under the state root, touched by descriptor only.

Lives here: reading, replacing and removing the files in it, and telling whether it is
one of ours at all. Must not live here: what the files say (`state`). Imported by `state`
and `lock`.

What is removed is named: the files this program makes, and nothing else, never through
a symbolic link and never a tree. A state root that is not one (`--root /`), a link in a
container's place, or a stranger's file in its directory cost nobody anything.
"""

from __future__ import annotations

import errno
import os
import stat

RECORD = "state.json"
CONFIG = "config.json"
LOCK = "lock"
# Made by `live` while a migration of the container is under way; says to or from whom.
MIGRATION = "migration"
# Where the terminal of a container that came by `live` is to be had.
TERMINAL = "terminal.sock"
# Made by `live` while a container that has come runs before its memory is in its place.
MEMORY_ARRIVING = "memory-arriving"
OWN = frozenset({RECORD, CONFIG, LOCK, MIGRATION, TERMINAL, MEMORY_ARRIVING, "start.sock"})
TEMPORARIES = (f".{RECORD}.", f".{CONFIG}.")
# The configuration of a container that has no control group of its own yet.
NEW_CONFIG = f".{CONFIG}.new"

# A record is some kilobytes; annotations of engines make it tens.
LARGEST_BYTES = 16 << 20


def open_directory(path: str) -> int:
    """Return a descriptor of the directory itself.

    Raises:
        FileNotFoundError: there is none; a link or a file in its place counts as none.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        raise


def has(directory: int, name: str) -> bool:
    """Tell whether an entry is there, whatever it is."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def is_ours(directory: int) -> bool:
    """Tell whether this program made the directory: only that it may ever remove."""
    return has(directory, RECORD) or has(directory, LOCK)


def read(directory: int, name: str) -> bytes:
    """Return a file's content.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is a link (ELOOP), no regular file (EINVAL) or too large (EFBIG).
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        if status.st_size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
        content = b""
        while part := os.read(fd, LARGEST_BYTES):
            content += part
        return content
    finally:
        os.close(fd)


def replace(directory: int, name: str, content: bytes) -> None:
    """Replace a file, so that either the old or the new content is there, and lasts."""
    temporary = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def empty(directory: int, *, but: str = "") -> list[str]:
    """Remove the files this program makes, and return the names of others, which stay.

    The record goes first and the lock last: in between, the id is neither a container
    nor free, and whoever looks meanwhile waits for the lock.
    """
    strangers = []
    names = os.listdir(directory)
    for name in sorted(names, key=lambda name: (name != RECORD, name == LOCK)):
        is_own = name in OWN or name.startswith(TEMPORARIES)
        if name != but and not _removed(directory, name, is_own=is_own):
            strangers.append(name)
    return strangers


def _removed(directory: int, name: str, *, is_own: bool) -> bool:
    """Remove a file of ours, or any directory that is empty; tell whether it is gone."""
    try:
        if is_own:
            os.unlink(name, dir_fd=directory)
            return True
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        pass
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError:  # it holds something, is mounted on, or is no directory
        return False
    return True
