"""The destination end of the memory stream: pages back into images.

Lives here: PageStore, which writes what `criu page-server` would have written.
Must not live here: the protocol's constants (`pages`), how the bytes came.
May be imported by `checkpoint` and `live`.

For each OPEN2 there are two files (criu/image.c, images/pagemap.proto):
`pagemap-PID.img` (or `pagemap-shmem-ID.img`), which names a pages id and lists
runs of pages, and `pages-ID.img`, the pages themselves in the same order.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from migrate.checkpoint.pages import (
    COMMAND_MASK,
    FLAGS_SHIFT,
    PAGE_SHIFT,
    PE_PRESENT,
    PS_IOV_ADD_F,
    PS_IOV_CLOSE,
    PS_IOV_FORCE_CLOSE,
    PS_IOV_OPEN2,
    PS_IOV_PARENT,
    RECORD,
    StreamSummary,
)
from migrate.checkpoint.reserve import Reserve
from migrate.errors import ImageError

_IMG_COMMON_MAGIC = 0x54564319
_PAGEMAP_MAGIC = 0x56084025
_TARGET_TYPE_BITS = 8
_PROCESS = 1
_NAME_BY_TARGET_TYPE = {_PROCESS: "pagemap-{}.img", 2: "pagemap-shmem-{}.img"}
# Page servers count from here, so that their images never meet those of a plain dump.
_FIRST_PAGES_ID = 0x10001
_IOV_MAX = 1024
_UINT32 = struct.Struct("<I")


@dataclass(slots=True)
class Stored:
    """The images of one process, or of one shared memory.

    Attributes:
        process: its number inside the container; None for shared memory.
        page_bytes: in its pages image.
    """

    process: int | None
    pagemap_name: str
    pages_name: str
    pages_id: int
    page_bytes: int = 0
    _flat: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, address: int, flags: int, pages: int) -> None:
        """Note a run of pages."""
        self._flat.extend((address, flags, pages))
        if flags & PE_PRESENT:
            self.page_bytes += pages << PAGE_SHIFT

    def entries(self) -> Iterator[tuple[int, int, int]]:
        """Yield address, flags and number of pages of each run."""
        flat = iter(self._flat)
        return zip(flat, flat, flat, strict=True)


class PageStore:
    """Writes a memory stream into an image directory, as it comes.

    Args:
        directory: descriptor of the image directory; stays the caller's.
        limit_bytes: more than this is refused before it is written; the budget
            declared before the stream began.
        reserve: memory taken before; given back here.
    """

    def __init__(
        self, directory: int, *, limit_bytes: int | None = None, reserve: Reserve | None = None
    ) -> None:
        import xxhash

        self._directory = directory
        self._limit_bytes = limit_bytes
        self._reserve = reserve
        self._digest = xxhash.xxh3_128()
        self._stream_bytes = 0
        self._page_bytes = 0
        self._payload_left = 0
        self._cut_record = b""
        self._pages = -1
        self._next_pages_id = _FIRST_PAGES_ID
        self._pieces: list[memoryview] = []
        self._complete = False
        self.images: list[Stored] = []

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream; any cut is fine.

        Raises:
            ImageError: no room, or not a memory stream.
        """
        view = memoryview(chunk)
        self._digest.update(view)
        self._stream_bytes += len(view)
        if self._limit_bytes is not None and self._stream_bytes > self._limit_bytes:
            raise ImageError(f"memory stream is longer than the {self._limit_bytes} bytes declared")
        if self._cut_record:
            view = memoryview(self._cut_record + bytes(view))
            self._cut_record = b""
        try:
            self._walk(view)
            self._write_pieces()
        except OSError as error:
            raise ImageError(
                f"memory image cannot be written: {error.strerror}",
                "Give an image directory with more room than the container has memory.",
            ) from error

    def finish(self) -> StreamSummary:
        """Write what is left and return what came through.

        Raises:
            ImageError: the stream ended early.
        """
        self.close()
        if not self._complete or self._cut_record or self._payload_left:
            raise ImageError(f"memory stream ended early, after {self._stream_bytes} bytes")
        return StreamSummary(
            self._stream_bytes, self._page_bytes, self._digest.hexdigest(), self._complete
        )

    def close(self) -> None:
        """Finish the file that is open, if any, and give back what is reserved."""
        self._close_image()
        if self._reserve is not None:
            self._reserve.close()

    def _close_image(self) -> None:
        """Finish the file that is open, if any."""
        if self._pages < 0:
            return
        # A reserved file is as long as was guessed.
        os.ftruncate(self._pages, os.lseek(self._pages, 0, os.SEEK_CUR))
        os.close(self._pages)
        self._pages = -1
        done = self.images[-1]
        write_pagemap(self._directory, done.pagemap_name, done.pages_id, done.entries())

    def _walk(self, view: memoryview) -> None:
        """Split the bytes into records and pages."""
        at, size = 0, len(view)
        while at < size:
            if self._payload_left:
                taken = min(self._payload_left, size - at)
                self._pieces.append(view[at : at + taken])
                self._payload_left -= taken
                at += taken
            elif size - at < RECORD.size:
                self._cut_record = bytes(view[at:])
                return
            else:
                command, pages, address, target = RECORD.unpack_from(view, at)
                at += RECORD.size
                if command & COMMAND_MASK == PS_IOV_ADD_F:
                    self._add(command >> FLAGS_SHIFT, pages, address)
                else:
                    self._control(command & COMMAND_MASK, target)

    def _add(self, flags: int, pages: int, address: int) -> None:
        """Note a run of pages; those present follow in the stream."""
        if self._pages < 0 or self._complete:
            raise ImageError("memory stream has pages outside an image")
        self.images[-1].add(address, flags, pages)
        if flags & PE_PRESENT:
            self._payload_left = pages << PAGE_SHIFT
            self._page_bytes += self._payload_left

    def _control(self, kind: int, target: int) -> None:
        """Begin an image, or end the stream."""
        if self._complete:
            raise ImageError("memory stream goes on after its end")
        if kind == PS_IOV_OPEN2:
            self._write_pieces()
            self._close_image()
            self._open(target)
        elif kind in (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE):
            self._write_pieces()
            self._close_image()
            self._complete = True
        elif kind != PS_IOV_PARENT:
            raise ImageError(f"memory stream has an unknown command {kind:#x}")

    def _open(self, target: int) -> None:
        """Begin the two files of one process, or of one shared memory."""
        template = _NAME_BY_TARGET_TYPE.get(target & ((1 << _TARGET_TYPE_BITS) - 1))
        if template is None:
            raise ImageError(f"memory stream opens an unknown kind of image {target:#x}")
        pages_id = self._next_pages_id
        self._next_pages_id += 1
        number = target >> _TARGET_TYPE_BITS
        process = number if template == _NAME_BY_TARGET_TYPE[_PROCESS] else None
        pages_name = f"pages-{pages_id}.img"
        reserved = None
        if self._reserve is not None and process is not None:
            reserved = self._reserve.take(process, pages_name)
        self._pages = _create(self._directory, pages_name) if reserved is None else reserved
        self.images.append(Stored(process, template.format(number), pages_name, pages_id))

    def _write_pieces(self) -> None:
        """Write the pages of this chunk to the image that is open."""
        pieces, self._pieces = self._pieces, []
        for begin in range(0, len(pieces), _IOV_MAX):
            batch = pieces[begin : begin + _IOV_MAX]
            written = os.writev(self._pages, batch)
            for piece in batch:
                if written < len(piece):
                    _write_all(self._pages, piece[written:])
                    written = 0
                else:
                    written -= len(piece)


def write_pagemap(
    directory: int, name: str, pages_id: int, entries: Iterable[tuple[int, int, int]]
) -> None:
    """Write the list of the pages in an image.

    Args:
        directory: descriptor of the image directory.
        pages_id: number in the name of the image that has the pages.
        entries: address, flags and number of pages of each run.
    """
    head = _pb_field(1, pages_id)
    parts = [
        _UINT32.pack(_IMG_COMMON_MAGIC),
        _UINT32.pack(_PAGEMAP_MAGIC),
        _UINT32.pack(len(head)) + head,
    ]
    parts += [_pagemap_entry(*entry) for entry in entries]
    descriptor = _create(directory, name)
    try:
        _write_all(descriptor, memoryview(b"".join(parts)))
    finally:
        os.close(descriptor)


def _create(directory: int, name: str) -> int:
    """Make one image file; one that exists is an attack or a mistake."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=directory)


def _write_all(descriptor: int, view: memoryview) -> None:
    """Write every byte, however often the kernel takes fewer."""
    while view:
        view = view[os.write(descriptor, view) :]


def _varint(value: int) -> bytes:
    """Return a protobuf varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _pb_field(number: int, value: int) -> bytes:
    """Return one protobuf field of an integer."""
    return _varint(number << 3) + _varint(value)


def _pagemap_entry(address: int, flags: int, pages: int) -> bytes:
    """Return one `pagemap_entry` with its length, as CRIU writes it.

    Written by hand because a container may have one for every other page.
    """
    body = b"\x08%b\x10\x00\x20%b\x28%b" % (_varint(address), _varint(flags), _varint(pages))
    return _UINT32.pack(len(body)) + body
