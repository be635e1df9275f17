"""What is inside regular files: blocks, holes and digests.

Lives here: reading a file block by block without its holes, writing one the same
way, and what two files are compared by. Must not live here: which file, and why.
`migrate.live.filesystem` only.

A file's digest is made of its blocks' digests, so that each side can keep those,
send only the blocks that differ later, and still verify the file as a whole. A
hole counts as zeros: where the holes are may differ between two file systems.
XXH3 finds accidents; whoever could forge one holds both ends of the SSH
connection already.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import xxhash

BLOCK_BYTES = 128 * 1024
DIGEST_BYTES = 16

_ZEROS = memoryview(bytes(BLOCK_BYTES))
_ZEROS_DIGEST = xxhash.xxh3_128_digest(_ZEROS)

Extents = list[tuple[int, int]]
"""Start and length of each piece of data within a block."""


def digest(data: memoryview | bytes | bytearray) -> bytes:
    """Return the digest of one block."""
    return xxhash.xxh3_128_digest(data)


def hole_digest(length: int) -> bytes:
    """Return the digest of `length` bytes of zeros."""
    return _ZEROS_DIGEST if length == BLOCK_BYTES else xxhash.xxh3_128_digest(_ZEROS[:length])


def file_digest(blocks: bytes | bytearray) -> bytes:
    """Return a file's digest, given its blocks' digests one after another."""
    return bytes(blocks) if len(blocks) == DIGEST_BYTES else xxhash.xxh3_128_digest(blocks)


def zeros(length: int) -> memoryview:
    """Return `length` zeros, a block at most."""
    return _ZEROS[:length]


class BlockReader:
    """Reads files block by block into one buffer."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BLOCK_BYTES))

    def blocks(self, fd: int, size: int) -> Iterator[tuple[int, memoryview | int, Extents | None]]:
        """Yield offset, data and extents of each block.

        The data is the reader's own buffer, overwritten by the next block; for a
        block that is one hole it is the hole's length instead. The extents are
        None where the whole block is data. Ends early where the file has become
        shorter than `size`.

        Args:
            fd: open for reading.
            size: bytes to read at most.
        """
        sparse = os.fstat(fd).st_blocks * 512 < size
        data_start, data_end = 0, size
        if sparse:
            data_start, data_end = _next_data(fd, 0, size)
        for offset in range(0, size, BLOCK_BYTES):
            end = min(offset + BLOCK_BYTES, size)
            extents: Extents = []
            if sparse and data_end <= offset:
                data_start, data_end = _next_data(fd, offset, size)
            if data_start >= end:
                yield offset, end - offset, []
                continue
            got = os.preadv(fd, [self._buffer[: end - offset]], offset)
            while sparse and data_start < end:
                first = max(data_start, offset)
                extents.append((first - offset, min(data_end, end) - first))
                if data_end >= end:
                    break
                data_start, data_end = _next_data(fd, data_end, size)
            whole = not sparse or extents == [(0, end - offset)]
            if not whole and got == end - offset:
                self._clear_holes(extents, got)
            if got:
                yield offset, self._buffer[:got], None if whole or got < end - offset else extents
            if got < end - offset:
                return

    def _clear_holes(self, extents: Extents, length: int) -> None:
        """Make zeros of what is not data: it may have been written since it was a hole."""
        at = 0
        for start, size in [*extents, (length, 0)]:
            self._buffer[at:start] = _ZEROS[: start - at]
            at = start + size


def _next_data(fd: int, offset: int, size: int) -> tuple[int, int]:
    """Return start and end of the next data at or after `offset`; both `size` if none."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        return min(start, size), min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno == errno.EINVAL:  # a file system that knows no holes
            return offset, size
        raise


def file_blocks(reader: BlockReader, fd: int, size: int) -> bytes:
    """Return the digests of a file's blocks, one after another."""
    return b"".join(
        hole_digest(data) if isinstance(data, int) else digest(data)
        for _, data, _ in reader.blocks(fd, size)
    )


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while len(data):
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written
