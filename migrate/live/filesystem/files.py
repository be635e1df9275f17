"""Writing the content of files as it arrives, and verifying it.

Lives here: blocks into an open file, the digests of what was written. Must not
live here: which file. The destination's half of `migrate.live.filesystem` only.
"""

from __future__ import annotations

import os

from migrate.errors import FileSyncError, ProtocolError
from migrate.live.filesystem import content, passes
from migrate.live.filesystem.content import BLOCK_BYTES, DIGEST_BYTES
from migrate.live.filesystem.passes import BlockKind, FileKind
from migrate.transport.receiving import StreamReader


class FileWriter:
    """Writes files, and remembers the digests of their blocks by id."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BLOCK_BYTES))
        self._blocks: dict[int, bytes] = {}
        self.offered: dict[int, bytes] = {}
        """Of files that were there before, until the source says they are right."""

    def forget(self, entry: int) -> None:
        """Drop what is known of an entry that is gone."""
        self._blocks.pop(entry, None)

    def keep(self, entry: int) -> None:
        """The source says: what was offered is right.

        Raises:
            ProtocolError: nothing was offered.
        """
        blocks = self.offered.pop(entry, None)
        if blocks is None:
            raise ProtocolError(f"file tree: entry {entry} was not offered")
        self._blocks[entry] = blocks

    def receive(
        self,
        stream: StreamReader,
        entry: int,
        fd: int,
        kind: FileKind,
        *,
        is_new: bool,
        most: int,
    ) -> int:
        """Write one file's content; returns how many bytes of data came for it.

        Args:
            stream: stands at the file's first block.
            entry: the file's id.
            fd: the file, open for writing; emptied for WHOLE.
            kind: WHOLE or PATCH.
            is_new: the file was made just now.
            most: bytes that it may have.

        Raises:
            FileSyncError: what was written is not what the source read.
            ProtocolError: blocks are out of order or too long.
        """
        patching = kind == FileKind.PATCH
        blocks = bytearray(self._known(entry, fd) if patching else b"")
        if not patching and not is_new:
            os.ftruncate(fd, 0)
        received, next_offset = 0, 0
        while True:
            block, offset, length = passes.BLOCK.unpack(stream.read_exactly(passes.BLOCK.size))
            end = offset if block == BlockKind.END else offset + length
            if end > most or length > BLOCK_BYTES:
                raise ProtocolError("file tree: a file is larger than announced")
            if block == BlockKind.END:
                self._end(stream, entry, fd, offset, blocks)
                return received
            if offset < next_offset or offset % BLOCK_BYTES or not length:
                raise ProtocolError("file tree: a file's blocks are out of order")
            next_offset = offset + BLOCK_BYTES
            if block == BlockKind.FULL:
                received += self._full(stream, fd, offset, length)
                value = content.digest(self._buffer[:length])
            elif block == BlockKind.SPARSE:
                received += self._sparse(stream, fd, offset, length, whole=patching)
                value = content.digest(self._buffer[:length])
            elif block == BlockKind.ZERO:
                content.write_all(fd, content.zeros(length), offset)
                value = content.hole_digest(length)
            else:
                raise ProtocolError(f"file tree: {block} is not a kind of block")
            at = offset // BLOCK_BYTES * DIGEST_BYTES
            _extend(blocks, at)
            blocks[at : at + DIGEST_BYTES] = value

    def _known(self, entry: int, fd: int) -> bytes:
        """The digests of what a file holds now.

        They are not known by this name where another name stood for the file before.
        """
        blocks = self._blocks.get(entry)
        if blocks is None:
            blocks = content.file_blocks(content.BlockReader(), fd, os.fstat(fd).st_size)
        return blocks

    def _full(self, stream: StreamReader, fd: int, offset: int, length: int) -> int:
        view = self._buffer[:length]
        _fill(stream, view)
        content.write_all(fd, view, offset)
        return length

    def _sparse(
        self, stream: StreamReader, fd: int, offset: int, length: int, *, whole: bool
    ) -> int:
        """Write a block with holes; where something was there before, all of it."""
        count = int.from_bytes(stream.read_exactly(2), "little")
        raw = stream.read_exactly(count * passes.EXTENT.size)
        view = self._buffer[:length]
        view[:] = content.zeros(length)
        end = received = 0
        extents = list(passes.EXTENT.iter_unpack(raw))
        for start, size in extents:
            if start < end or start + size > length:
                raise ProtocolError("file tree: a block's extents are out of order")
            end = start + size
            received += size
            _fill(stream, view[start:end])
        for start, size in [(0, length)] if whole else extents:
            content.write_all(fd, view[start : start + size], offset + start)
        return received

    def _end(self, stream: StreamReader, entry: int, fd: int, size: int, blocks: bytearray) -> None:
        os.ftruncate(fd, size)
        theirs = stream.read_exactly(DIGEST_BYTES)
        count = -(-size // BLOCK_BYTES)
        if count:
            _extend(blocks, (count - 1) * DIGEST_BYTES)
        if len(blocks) < count * DIGEST_BYTES:
            blocks += content.hole_digest(size - (count - 1) * BLOCK_BYTES)
        del blocks[count * DIGEST_BYTES :]
        if content.file_digest(blocks) != theirs:
            raise FileSyncError("a file's content arrived damaged", "Run the migration again.")
        self._blocks[entry] = bytes(blocks)


def _extend(blocks: bytearray, length: int) -> None:
    """Make room up to `length`: what did not come is a hole."""
    missing = (length - len(blocks)) // DIGEST_BYTES
    if missing > 0:
        blocks += content.hole_digest(BLOCK_BYTES) * missing


def _fill(stream: StreamReader, view: memoryview) -> None:
    if stream.read_into(view) < len(view):
        raise ProtocolError("file tree: the stream ended in the middle of a file")
