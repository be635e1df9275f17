"""Whether two hosts have the same at a path.

Lives here: the digest of a whole tree, and the marker by which storage is shown to be
shared. Must not live here: what follows from it (`decide`). `live.volumes` only.

The digest is of names, types, owners, modes, attributes and contents; not of times,
which say how something came there and not what it is. A marker is a file with a text of
chance, written here and read there: of two copies of one disk everything else may be
the same.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator

import xxhash

from migrate.live.filesystem import content
from migrate.live.filesystem.beneath import OpenDirectories, open_regular
from migrate.live.filesystem.inventory import Inventory

MARKER_PREFIX = ".migrate-probe-"
_MARKER_BYTES = 16
_LARGEST_MARKER_BYTES = 256


def split(path: str, *, is_file: bool) -> tuple[str, str | None]:
    """Return the folder to open for a folder or a file, and the one name in it that counts."""
    if not is_file:
        return path, None
    real = os.path.realpath(path)
    return os.path.dirname(real), os.path.basename(real)


def tree_digest(path: str, *, is_file: bool = False, layer: bool = False) -> str:
    """Return the digest of a tree, or of one file.

    Args:
        layer: it is a layer of an overlay, whose marks count.

    Raises:
        OSError: something of it cannot be read.
        FileSyncError: it is too large or deep.
    """
    root, only = split(path, is_file=is_file)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tree = Inventory(root_fd, only=only, layer=layer)
        tree.walk()
        entries = range(1 if is_file else 0, len(tree.names))
        lines = sorted((tree.path(entry), entry) for entry in entries if tree.is_alive(entry))
        total = xxhash.xxh3_128()
        reader = content.BlockReader()
        firsts: dict[int, str] = {}
        with OpenDirectories(root_fd, tree.path) as directories:
            for name, entry in lines:
                first = firsts.setdefault(tree.leader(entry), name)
                total.update(_line("" if is_file else name, first, tree, entry))
                if stat.S_ISREG(tree.modes[entry]) and first == name:
                    total.update(_content(reader, directories, tree, entry))
        return total.hexdigest()
    finally:
        os.close(root_fd)


def _line(name: str, first: str, tree: Inventory, entry: int) -> bytes:
    """Return all of an entry but its content."""
    fields = (
        name,
        first if first != name and name else "",
        tree.modes[entry],
        tree.uids[entry],
        tree.gids[entry],
        tree.rdevs[entry],
        tree.targets.get(entry, ""),
        sorted(tree.xattrs.get(entry, {}).items()),
    )
    return os.fsencode(repr(fields)) + b"\n"


def _content(
    reader: content.BlockReader, directories: OpenDirectories, tree: Inventory, entry: int
) -> bytes:
    """Return the digest of a regular file."""
    directory = directories.fd(tree.parents[entry])
    fd = open_regular(directory, tree.names[entry], os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        return b"%d " % size + content.file_digest(content.file_blocks(reader, fd, size))
    finally:
        os.close(fd)


@contextlib.contextmanager
def marker(folder: str) -> Iterator[tuple[str, str]]:
    """Put a marker into a folder for the length of the block; its time stays as it was.

    Yields:
        Its name and its text; two empty ones where none can be written.
    """
    name, text = MARKER_PREFIX + secrets.token_hex(8), secrets.token_hex(_MARKER_BYTES)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield "", ""
        return
    try:
        before = os.fstat(folder_fd)
        try:
            fd = os.open(name, flags, 0o600, dir_fd=folder_fd)
        except OSError:
            yield "", ""
            return
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            yield name, text
        finally:
            os.unlink(name, dir_fd=folder_fd)
            os.utime(folder_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(folder_fd)


def read_marker(folder: str, name: str) -> str:
    """Return the text of a marker, "" where there is none."""
    if not name.startswith(MARKER_PREFIX) or "/" in name:
        return ""
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fd = open_regular(folder_fd, name, os.O_RDONLY)
    except OSError:
        return ""
    finally:
        os.close(folder_fd)
    with open(fd, "rb") as file:
        return file.read(_LARGEST_MARKER_BYTES).decode("ascii", "replace")
