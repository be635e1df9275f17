"""The incoming half of a stream: chunks that arrived and wait to be read.

Lives here: the reader's queue, its credit and its budget. Must not live here:
reading the channel. `migrate.transport` only; others get a `StreamReader` from
`Link.accept_stream`.

Chunks are expanded by the thread that reads them, so expanding one overlaps
with receiving the next; what waits here is still as small as it was sent.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Self

from migrate.errors import LinkError, ProtocolError
from migrate.transport import frames
from migrate.transport.compression import Expander
from migrate.transport.fate import Fate
from migrate.transport.frames import Header, Kind

Send = Callable[[Kind, bytes, int, int], None]
"""Queues a frame: kind, payload, stream, number. The lock is held."""


class StreamReader:
    """One direction of bulk data; made by `Link.accept_stream`. One thread reads.

    Args:
        fate: the link's.
        send: queues a frame.
        stream: number on the wire.
        name: as the peer opened it.
        budget_bytes: what the peer declared it would send at most.
        window_bytes: how much may be on its way and unread.
    """

    def __init__(
        self, fate: Fate, send: Send, stream: int, name: str, budget_bytes: int, window_bytes: int
    ) -> None:
        self.name = name
        self.budget_bytes = budget_bytes
        self.raw_bytes = 0
        """Bytes that arrived so far, as they were before compression."""
        self.wire_bytes = 0
        """Bytes that arrived for them, headers included."""
        self._fate = fate
        self._send = send
        self._stream = stream
        self._window_bytes = window_bytes
        self._credit = window_bytes
        self._unacknowledged = 0
        self._queue: collections.deque[tuple[Header, memoryview]] = collections.deque()
        self._left = memoryview(b"")
        self._complete = False
        self._given_up = ""
        self._over = False
        self._expander = Expander(frames.MAX_CHUNK_BYTES)
        self._arrival = fate.condition()

    def read(self, timeout_seconds: float | None = None) -> memoryview | None:
        """Return the next chunk of any size, or None when the stream is complete.

        Raises:
            LinkError: the link broke before the stream's end, the writer gave
                it up, or nothing arrived within `timeout_seconds`.
            ProtocolError: the chunk is damaged.
        """
        if len(self._left):
            chunk, self._left = self._left, memoryview(b"")
            return chunk
        with self._fate.lock:
            arrived = self._fate.wait(
                self._arrival,
                lambda: bool(self._queue or self._complete or self._given_up or self._over),
                timeout_seconds,
                drain=True,
            )
            if not arrived:
                raise LinkError(f"stream {self.name}: nothing arrived for {timeout_seconds} s")
            if not self._queue:
                self._check_complete()
                return None
            header, payload = self._queue.popleft()
        chunk = payload
        if header.flags & frames.FLAG_ZSTD:
            chunk = memoryview(self._expander.expand(payload, header.number))
        with self._fate.lock:
            self._acknowledge(header.number)
        return chunk

    def _check_complete(self) -> None:
        if self._given_up:
            raise LinkError(f"stream {self.name}: given up by the writer: {self._given_up}")
        if not self._complete:
            raise LinkError(f"stream {self.name}: is closed")

    def _acknowledge(self, raw_bytes: int) -> None:
        """Grant what was read, a quarter of the window at a time."""
        self._unacknowledged += raw_bytes
        if self._unacknowledged >= self._window_bytes // 4 and not self._complete:
            if not self._over and self._fate.error is None:
                self._send(Kind.CREDIT, b"", self._stream, self._unacknowledged)
                self._credit += self._unacknowledged
            self._unacknowledged = 0

    def __iter__(self) -> Iterator[memoryview]:
        """Yield chunks until the stream is complete."""
        while (chunk := self.read()) is not None:
            yield chunk

    def read_into(self, view: memoryview, timeout_seconds: float | None = None) -> int:
        """Fill `view` as far as the stream goes; less than its length only at the end."""
        filled = 0
        while filled < len(view):
            chunk = self.read(timeout_seconds)
            if chunk is None:
                break
            count = min(len(chunk), len(view) - filled)
            view[filled : filled + count] = chunk[:count]
            filled += count
            self._left = chunk[count:]
        return filled

    def read_exactly(self, count: int, timeout_seconds: float | None = None) -> bytes:
        """Return the next `count` bytes.

        Raises:
            ProtocolError: the stream ended before them.
        """
        data = bytearray(count)
        if self.read_into(memoryview(data), timeout_seconds) < count:
            raise ProtocolError(f"stream {self.name}: ended in the middle of a record")
        return bytes(data)

    def close(self, reason: str = "no longer wanted") -> None:
        """Stop reading; where data is still to come its writer gets `reason`."""
        with self._fate.lock:
            if not self._over:
                self._over = True
                self._queue.clear()
                self._arrival.notify_all()
                if not self._complete and not self._given_up and self._fate.error is None:
                    self._send(Kind.RESET, frames.pack_reason(reason), self._stream, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self.close(str(error) if error else "no longer wanted")

    # Called by the link's reading thread, with the lock held.

    def arrive(self, header: Header, payload: memoryview) -> None:
        """Queue a chunk.

        Raises:
            ProtocolError: the writer has no credit for it, or declared less.
        """
        self._credit -= header.number
        self.raw_bytes += header.number
        self.wire_bytes += frames.HEADER_BYTES + header.length
        if self._credit < 0:
            raise ProtocolError(f"stream {self.name}: sent more than it had credit for")
        if self.raw_bytes > self.budget_bytes:
            raise ProtocolError(
                f"stream {self.name}: sent more than the declared {self.budget_bytes} bytes"
            )
        if not (self._over or self._given_up):
            self._queue.append((header, payload))
            self._arrival.notify_all()

    def complete(self, total_bytes: int) -> None:
        """Mark the end.

        Raises:
            ProtocolError: the writer counted other bytes than these.
        """
        if total_bytes != self.raw_bytes:
            raise ProtocolError(
                f"stream {self.name}: {self.raw_bytes} bytes arrived of {total_bytes}"
            )
        self._complete = True
        self._arrival.notify_all()

    def give_up(self, reason: str) -> None:
        """The writer gave up; what it sent before is dropped."""
        self._given_up = reason or "no reason given"
        self._queue.clear()
        self._arrival.notify_all()
