"""The destination's copy of a container's memory, while it still runs at the source.

Lives here: AddressStore, which takes batches of pages. Must not live here: their format
(`page_batches`), how they become the memory of processes (`apart`, `keeping`). May be
imported by `checkpoint` and `live`.

One file a process, in memory, in which the page of an address lies at that offset: a
page that comes again overwrites itself, and a hole is zeros. No index is needed: which
pages count is said by CRIU's own list, at the end.
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Self

from migrate import syscalls
from migrate.checkpoint.page_batches import END, FORGET, IS_ZERO, Batch, Decoder
from migrate.checkpoint.pages import PAGE_SHIFT, StreamSummary
from migrate.errors import ImageError, KernelError

_ADDRESS_BYTES = 1 << 47
_LOOK_BYTES = 16 << 20
_BLOCK_BYTES = 512


class AddressStore:
    """Takes a stream of batches; `close` it.

    Args:
        folder: in memory.
        limit_bytes: more than this is not kept.
    """

    def __init__(self, folder: str, *, limit_bytes: int | None = None) -> None:
        import xxhash

        self._folder = folder
        self._limit_bytes = limit_bytes
        self._unlooked_bytes = 0
        self._decoder = Decoder()
        self._digest = xxhash.xxh3_128()
        self._stream_bytes = 0
        self._page_bytes = 0
        self._is_complete = False
        self._files: dict[int, int] = {}

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream; any cut is fine.

        Raises:
            ImageError: no room, or not such a stream.
        """
        self._digest.update(chunk)
        self._stream_bytes += len(chunk)
        try:
            for batch in self._decoder.feed(chunk):
                self._take(batch)
        except OSError as error:
            raise ImageError(
                f"memory cannot be kept: {error.strerror}",
                "The destination needs as much free memory as the container has.",
            ) from error

    def finish(self) -> StreamSummary:
        """Return what came through.

        Raises:
            ImageError: the stream ended early.
        """
        if not self._is_complete:
            raise ImageError(f"memory stream ended early, after {self._stream_bytes} bytes")
        if not self._decoder.is_between:
            raise ImageError("memory stream goes on after its end")
        return StreamSummary(
            self._stream_bytes, self._page_bytes, self._digest.hexdigest(), self._is_complete
        )

    def file_of(self, process: int) -> int:
        """Return the descriptor of a process's file, which stays the store's."""
        if process not in self._files:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            path = f"{self._folder}/memory-{process}"
            self._files[process] = os.open(path, flags, 0o600)
            os.unlink(path)  # whoever holds it open has it, and nobody else
            os.ftruncate(self._files[process], _ADDRESS_BYTES)
        return self._files[process]

    def close(self) -> None:
        """Let go of the files; may be called again."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def _take(self, batch: Batch) -> None:
        if self._is_complete:
            raise ImageError("memory stream goes on after its end")
        if batch.kind == END:
            self._is_complete = True
        elif batch.kind == FORGET:
            with contextlib.suppress(KeyError):
                os.close(self._files.pop(batch.process))
        else:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        """Put pages at their addresses."""
        descriptor = self.file_of(batch.process)
        at = 0
        for address, pages in batch.runs:
            size = pages << PAGE_SHIFT
            if address & IS_ZERO:
                _make_zero(descriptor, address & ~IS_ZERO, size)
                continue
            _write_at(descriptor, batch.contents[at : at + size], address)
            at += size
        self._page_bytes += at
        self._unlooked_bytes += at
        if self._unlooked_bytes >= _LOOK_BYTES:
            self._unlooked_bytes = 0
            self._refuse_too_much()

    def _refuse_too_much(self) -> None:
        """Refuse what a container of the size that was announced cannot have."""
        kept = sum(os.fstat(each).st_blocks * _BLOCK_BYTES for each in self._files.values())
        if self._limit_bytes is not None and kept > self._limit_bytes:
            raise ImageError(
                f"memory takes {kept} bytes, more than the {self._limit_bytes} that are expected",
                "Try again: it has grown manifold since it was looked at.",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _make_zero(descriptor: int, address: int, size: int) -> None:
    """Make a piece zeros again; its memory is given back where the kernel can."""
    try:
        syscalls.fallocate(descriptor, syscalls.FALLOC_FL_PUNCH_HOLE, address, size)
    except KernelError:
        _write_at(descriptor, memoryview(bytes(size)), address)


def _write_at(descriptor: int, view: memoryview, offset: int) -> None:
    """Write every byte, however often the kernel takes fewer."""
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
