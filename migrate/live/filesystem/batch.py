"""What changed in a tree, as it travels: columns, not one object a file.

Lives here: the Batch, its encoding and the checks of one that a peer sent. Must
not live here: file systems, streams. Pure; `migrate.live.filesystem` only.

Every entry of a tree has an id, given once by the source and never again: 0 is
the root, an entry's id is larger than its directory's. A batch names what is gone,
then what is new or changed, directories before what is in them. Ten thousand
entries are a dozen arrays and three joined strings, half a megabyte before
compression.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from migrate.errors import ProtocolError
from migrate.live.filesystem.attributes import Xattrs, is_carried

NO_LINK = 0xFFFFFFFF
"""In `links`: not a further name of another entry's file."""

MAX_ENTRIES = 8_000_000
MAX_NAME_BYTES = 255
MAX_TARGET_BYTES = 4095
MAX_DEPTH = 2048
MAX_XATTR_BYTES = 65536
MAX_SECTION_BYTES = 1 << 30

# Column, typecode; the order is the order on the wire.
_COLUMNS = (
    ("ids", "I"),
    ("parents", "I"),
    ("modes", "I"),
    ("uids", "I"),
    ("gids", "I"),
    ("links", "I"),
    ("sizes", "Q"),
    ("mtimes", "q"),
    ("rdevs", "Q"),
)
_ROW_BYTES = sum(array(code).itemsize for _, code in _COLUMNS)
_HEAD = struct.Struct("<IIQQQ")  # gone, rows, bytes of names, targets, xattrs
_XATTR = struct.Struct("<IHI")  # row, bytes of the name, of the value

TYPES = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    }
)


def _column(code: str) -> array[int]:
    return array(code)


@dataclass(slots=True)
class Batch:
    """Removed, then new and changed entries of a tree.

    Attributes:
        gone: ids, what is in a directory before the directory.
        ids: of the rows below; all columns have one item a row.
        parents: id of the directory; the root is its own.
        modes: st_mode.
        uids: numeric owner.
        gids: numeric group.
        links: id of the entry whose file this is another name of, or NO_LINK.
        sizes: bytes of a regular file, as of the listing.
        mtimes: nanoseconds.
        rdevs: of a device.
        names: one component each; the root's is empty.
        targets: of symbolic links, by row.
        xattrs: by row, where there are any.
    """

    gone: array[int] = field(default_factory=lambda: _column("I"))
    ids: array[int] = field(default_factory=lambda: _column("I"))
    parents: array[int] = field(default_factory=lambda: _column("I"))
    modes: array[int] = field(default_factory=lambda: _column("I"))
    uids: array[int] = field(default_factory=lambda: _column("I"))
    gids: array[int] = field(default_factory=lambda: _column("I"))
    links: array[int] = field(default_factory=lambda: _column("I"))
    sizes: array[int] = field(default_factory=lambda: _column("Q"))
    mtimes: array[int] = field(default_factory=lambda: _column("q"))
    rdevs: array[int] = field(default_factory=lambda: _column("Q"))
    names: list[str] = field(default_factory=list)
    targets: dict[int, str] = field(default_factory=dict)
    xattrs: dict[int, Xattrs] = field(default_factory=dict)


def encode(batch: Batch) -> Iterator[bytes]:
    """Yield the batch as the byte strings that `decode` reads one after another."""
    names = os.fsencode("\0".join(batch.names))
    rows = len(batch.ids)
    targets = os.fsencode(
        "\0".join(batch.targets[row] for row in range(rows) if stat.S_ISLNK(batch.modes[row]))
    )
    xattrs = b"".join(
        _XATTR.pack(row, len(raw), len(value)) + raw + value
        for row, attributes in batch.xattrs.items()
        for raw, value in ((os.fsencode(name), value) for name, value in attributes.items())
    )
    yield _HEAD.pack(len(batch.gone), rows, len(names), len(targets), len(xattrs))
    yield _little_endian(batch.gone)
    for name, _ in _COLUMNS:
        yield _little_endian(getattr(batch, name))
    yield names
    yield targets
    yield xattrs


def _little_endian(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


class Decoder:
    """Reads a batch piece by piece, each length checked before it is read.

    Usage: read HEAD_BYTES, call `head`, then read and `feed` each of `sizes`.
    """

    HEAD_BYTES = _HEAD.size

    def head(self, raw: bytes) -> list[int]:
        """Return how many bytes each of the sections that follow has.

        Raises:
            ProtocolError: more than any tree may have.
        """
        gone, rows, names, targets, xattrs = _HEAD.unpack(raw)
        if gone > MAX_ENTRIES or rows > MAX_ENTRIES:
            raise ProtocolError(f"file tree: {rows} entries are more than {MAX_ENTRIES}")
        limits = (
            (names, rows * (MAX_NAME_BYTES + 1)),
            (targets, rows * (MAX_TARGET_BYTES + 1)),
            (xattrs, rows * MAX_XATTR_BYTES * 16),
        )
        if any(size > min(limit, MAX_SECTION_BYTES) for size, limit in limits):
            raise ProtocolError("file tree: a section is longer than its entries allow")
        self._rows = rows
        columns = [rows * array(code).itemsize for _, code in _COLUMNS]
        return [gone * 4, *columns, names, targets, xattrs]

    def batch(self, sections: list[bytes]) -> Batch:
        """Put the sections together and check what can be checked without a tree.

        Raises:
            ProtocolError: it is not what `encode` makes.
        """
        gone, *rest = sections
        columns, (names, targets, xattrs) = rest[: len(_COLUMNS)], rest[len(_COLUMNS) :]
        batch = Batch(gone=_from_little_endian("I", gone))
        for (name, code), raw in zip(_COLUMNS, columns, strict=True):
            setattr(batch, name, _from_little_endian(code, raw))
        batch.names = _split(names, self._rows, "names")
        _check_names(batch)
        _check_modes(batch)
        links = [row for row, mode in enumerate(batch.modes) if stat.S_ISLNK(mode)]
        found = _split(targets, len(links), "targets")
        if not all(found) or any(len(target) > MAX_TARGET_BYTES for target in found):
            raise ProtocolError("file tree: the target of a symbolic link is empty or too long")
        batch.targets = dict(zip(links, found, strict=True))
        batch.xattrs = _read_xattrs(xattrs, self._rows)
        return batch


def _from_little_endian(code: str, raw: bytes) -> array[int]:
    column = array(code)
    column.frombytes(raw)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _split(joined: bytes, count: int, what: str) -> list[str]:
    found = os.fsdecode(joined).split("\0") if count else []
    if len(found) != count or (not count and joined):
        raise ProtocolError(f"file tree: {len(found)} {what} for {count} entries")
    return found


def _check_names(batch: Batch) -> None:
    for entry, name in zip(batch.ids, batch.names, strict=True):
        if entry == 0 and not name:
            continue
        if not name or name in {".", ".."} or "/" in name:
            raise ProtocolError(f"file tree: {name!r} is not a file's name")
        if len(name) * 4 > MAX_NAME_BYTES and len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise ProtocolError(f"file tree: a name is longer than {MAX_NAME_BYTES} bytes")


def _check_modes(batch: Batch) -> None:
    for mode in set(batch.modes):
        if mode > 0o177777 or stat.S_IFMT(mode) not in TYPES:
            raise ProtocolError(f"file tree: {mode:#o} is not the mode of a file")


def _read_xattrs(raw: bytes, rows: int) -> dict[int, Xattrs]:
    found: dict[int, Xattrs] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < _XATTR.size:
            raise ProtocolError("file tree: an extended attribute is cut short")
        row, name_bytes, value_bytes = _XATTR.unpack_from(raw, at)
        at += _XATTR.size
        if row >= rows or value_bytes > MAX_XATTR_BYTES or len(raw) - at < name_bytes + value_bytes:
            raise ProtocolError("file tree: an extended attribute is not within its limits")
        name = os.fsdecode(raw[at : at + name_bytes])
        at += name_bytes
        if not is_carried(name, layer=True) or "\0" in name:
            raise ProtocolError(f"file tree: extended attribute {name!r} is none that travels")
        found.setdefault(row, {})[name] = raw[at : at + value_bytes]
        at += value_bytes
    return found
