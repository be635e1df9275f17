"""Memory that a dump leaves where it is, because it is sent in another way.

Lives here: what CRIU is told, and its list of the pages. Must not live here: the sending
(`memory_copy`), the dump (`dump`). May be imported by `checkpoint` and `live`.

CRIU's own name for it is lazy pages: the dump writes no contents of private anonymous
memory, only a list of its pages, and afterwards waits for somebody who fetches them. We
have sent them before that, so nobody does: once the tasks may end, it is told that the
fetching is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.mappings import Span
from migrate.checkpoint.pages import (
    PAGE_SHIFT,
    PE_LAZY,
    PS_IOV_CLOSE,
    RECORD,
    StreamSummary,
)
from migrate.errors import ImageError

_PAGEMAP = re.compile(r"pagemap-(\d+)\.img")
_HEAD_BYTES = 8  # two magics
_SIZE = struct.Struct("<I")
_LARGEST_PAGEMAP_BYTES = 1 << 30

Complete = Callable[[Iterator[tuple[int, list[Span]]]], StreamSummary]


def preload() -> Any:
    """Return the messages, loaded before anything is frozen."""
    from pycriu.images import pagemap_pb2

    return pagemap_pb2


class LeftOut:
    """One dump's memory; `close` it.

    Args:
        complete: called with each process (its number inside the container) and the
            pages that the dump has listed, when all tasks are held; returns what was
            sent of them, then or before.
    """

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._messages = preload()
        self._ours, self._theirs = socket.socketpair()
        self._configuration = os.memfd_create("criu.conf")
        os.write(self._configuration, b"ps-socket %d\n" % self._theirs.fileno())

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that CRIU inherits."""
        return self._theirs.fileno(), self._configuration

    @property
    def configuration(self) -> str:
        """Path, for CRIU, of the configuration file that names the socket."""
        return f"/proc/self/fd/{self._configuration}"

    def finish(self, images: ImageDirectory) -> StreamSummary:
        """Have the rest of the memory sent; return what all of it was."""
        self._theirs.close()
        return self._complete(
            (process, lazy)
            for process, _, entries in lists_of_pages(images, self._messages)
            if (lazy := [span for span, flags in entries if flags & PE_LAZY])
        )

    def serve(self, when_fetched: Callable[[], None]) -> None:
        """Say that the pages were fetched: CRIU ends the tasks."""
        with contextlib.suppress(OSError):  # it has ended
            self._ours.sendall(RECORD.pack(PS_IOV_CLOSE, 0, 0, 0))
        when_fetched()

    def close(self) -> None:
        """Let go; a CRIU that waits to be asked ends."""
        self._theirs.close()
        self._ours.close()
        if self._configuration >= 0:
            os.close(self._configuration)
            self._configuration = -1


def lists_of_pages(
    images: ImageDirectory, messages: Any
) -> Iterator[tuple[int, int, list[tuple[Span, int]]]]:
    """Yield each process, the number of its pages image, and its spans with their flags.

    Raises:
        ImageError: a list is damaged.
    """
    for name in images.names():
        match = _PAGEMAP.fullmatch(name)
        if match:
            content = images.read(name, _LARGEST_PAGEMAP_BYTES)
            try:
                yield int(match[1]), *_entries(content, messages)
            except (struct.error, ValueError) as error:
                raise ImageError(f"{images.path}/{name} is damaged: {error}") from None


def _entries(content: bytes, messages: Any) -> tuple[int, list[tuple[Span, int]]]:
    from google.protobuf.message import DecodeError

    entries: list[tuple[Span, int]] = []
    pages_id, at = -1, _HEAD_BYTES
    try:
        while at < len(content):
            size = _SIZE.unpack_from(content, at)[0]
            at += _SIZE.size
            part = content[at : at + size]
            at += size
            if len(part) != size:
                raise ValueError("it ends within an entry")
            if pages_id < 0:
                pages_id = messages.pagemap_head.FromString(part).pages_id
                continue
            entry = messages.pagemap_entry.FromString(part)
            pages = entry.nr_pages or entry.compat_nr_pages
            span = entry.vaddr, entry.vaddr + (pages << PAGE_SHIFT)
            entries.append((span, entry.flags))
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return pages_id, entries
