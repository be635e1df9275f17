"""The outgoing half of a link: what goes next, at what level, and how much may.

Lives here: the queue of control frames, the streams being written, their
credit, the compressor threads and the thread that feeds the channel. Must not
live here: what comes in. `migrate.transport` only; others get a `StreamWriter`
from `Link.open_stream`.

    StreamWriter.write -> jobs of one stream, in order -> compressor threads
        -> (head of each stream, round robin, after all control frames) -> channel

A chunk is charged to the stream's credit when it is queued, so at most one
window of a stream is on its way, here and there together.
"""

from __future__ import annotations

import collections
import os
import threading
import time
from collections.abc import Callable
from typing import Self

from migrate.errors import LinkError, TransportError
from migrate.transport import frames
from migrate.transport.channel import ByteChannel
from migrate.transport.compression import Buffer, Compressor, Meter
from migrate.transport.fate import Fate
from migrate.transport.frames import Header, Kind

# Raw bytes of one stream that wait here for a compressor or the channel: enough
# to keep both busy, little enough that a slow link does not hoard memory.
_QUEUED_BYTES = 4 * 1024 * 1024

# More compressors than these are faster than any link that one cipher serves.
_MOST_WORKERS = 4

# How long a message may wait for a frame of data that is being sent.
_MOMENT_SECONDS = 0.02

# Until the peer has said how long it bears silence.
_FIRST_HEARTBEAT_SECONDS = 0.1

# A smaller frame measures the cost of a system call, not the link.
_MEASURED_BYTES = 32 * 1024


class _Job:
    """One chunk on its way to the channel."""

    __slots__ = ("chunk", "flags", "payload", "ready", "taken")

    def __init__(self, chunk: Buffer) -> None:
        self.chunk = chunk
        self.taken = False  # by a compressor: nothing may be appended any more
        self.ready = False
        self.payload: Buffer = b""
        self.flags = 0


class StreamWriter:
    """One direction of bulk data; made by `Link.open_stream`.

    One thread writes. Small writes are gathered into chunks while earlier ones
    are still on their way, and sent at once when none are: there is no flush.
    """

    def __init__(
        self, outbox: Outbox, stream: int, name: str, budget_bytes: int, credit: int
    ) -> None:
        self.name = name
        self.raw_bytes = 0
        """Bytes written so far."""
        self.wire_bytes = 0
        """Bytes that the channel took for them, headers included."""
        self._outbox = outbox
        self._stream = stream
        self._budget_bytes = budget_bytes
        self._credit = credit
        self._jobs: collections.deque[_Job] = collections.deque()
        self._queued_bytes = 0
        self._refused = ""
        self._over = False
        self._room = outbox.fate.condition()

    def write(self, buffer: Buffer) -> None:
        """Send a copy of `buffer`; blocks while neither credit nor room is left.

        Raises:
            LinkError: the link broke, the reader gave the stream up, or the
                budget declared at opening is spent.
        """
        self._write(buffer, owned=False)

    def give(self, buffer: Buffer) -> None:
        """Send `buffer` without copying it; it must not change from now on."""
        self._write(buffer, owned=True)

    def _write(self, buffer: Buffer, *, owned: bool) -> None:
        view = memoryview(buffer).cast("B")
        with self._outbox.fate.lock:
            if self.raw_bytes + len(view) > self._budget_bytes:
                raise LinkError(
                    f"stream {self.name}: more than the declared {self._budget_bytes} bytes"
                )
            while len(view):
                size = min(len(view), self._outbox.next_chunk_bytes())
                self._wait_for_room(size)
                self._queue(view[:size], owned=owned)
                view = view[size:]

    def _wait_for_room(self, wanted: int) -> None:
        """Wait until a chunk of that size fits; the lock is held."""

        def fits() -> bool:
            return (
                bool(self._refused)
                or self._over
                or (self._credit >= wanted and self._queued_bytes < _QUEUED_BYTES)
            )

        self._outbox.fate.wait(self._room, fits, None)
        self._raise_if_refused()
        if self._over:
            raise LinkError(f"stream {self.name}: is closed")

    def _queue(self, piece: memoryview, *, owned: bool) -> None:
        self._credit -= len(piece)
        self._queued_bytes += len(piece)
        self.raw_bytes += len(piece)
        last = self._jobs[-1] if self._jobs else None
        if (
            last is not None
            and not last.taken
            and isinstance(last.chunk, bytearray)
            and len(last.chunk) + len(piece) <= self._outbox.chunk_bytes
        ):
            last.chunk += piece
            return
        # Bytes that more can be appended to, or that cannot take any more.
        full = len(piece) >= self._outbox.chunk_bytes
        job = _Job(piece if owned else bytes(piece) if full else bytearray(piece))
        self._jobs.append(job)
        self._outbox.compress_later(job)

    def close(self, timeout_seconds: float | None = None) -> None:
        """Send what is left and end the stream; returns when the channel took it.

        Raises:
            LinkError: the link broke, the reader gave the stream up, or
                `timeout_seconds` passed.
        """
        with self._outbox.fate.lock:
            if self._over:
                return
            drained = self._outbox.fate.wait(
                self._room, lambda: bool(self._refused) or not self._jobs, timeout_seconds
            )
            self._raise_if_refused()
            if not drained:
                raise LinkError(f"stream {self.name}: not taken within {timeout_seconds} s")
            self._finish(Kind.END, frames.pack_total(self.raw_bytes))

    def _raise_if_refused(self) -> None:
        if self._refused:
            raise LinkError(f"stream {self.name}: given up by the reader: {self._refused}")

    def abort(self, reason: str) -> None:
        """Give the stream up; its reader gets `reason` as an error."""
        with self._outbox.fate.lock:
            self.cut(reason)

    def _finish(self, kind: Kind, payload: bytes) -> None:
        self._over = True
        if not self._refused:
            self._outbox.queue_control(kind, payload, stream=self._stream)
        self._outbox.drop(self._stream)
        self._room.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort(str(error) or kind.__name__)

    # Called by the outbox and the link, with the lock held.

    def cut(self, reason: str) -> None:
        """Give the stream up."""
        if not self._over:
            self._jobs.clear()
            self._finish(Kind.RESET, frames.pack_reason(reason))

    def grant(self, credit: int) -> None:
        """Let `credit` more bytes through."""
        self._credit += credit
        self._room.notify_all()

    def refuse(self, reason: str) -> None:
        """The reader gave up."""
        if self._refused or self._over:
            return
        self._refused = reason or "no reason given"
        self._jobs.clear()
        self._room.notify_all()
        # The reader swallows what is on its way until it sees this.
        self._outbox.queue_control(Kind.RESET, stream=self._stream)

    def head(self) -> _Job | None:
        """Return the chunk to send next, if it is ready."""
        return self._jobs[0] if self._jobs and self._jobs[0].ready else None

    def sent(self, job: _Job, wire_bytes: int) -> None:
        """The channel took the head."""
        self.wire_bytes += wire_bytes
        if self._jobs and self._jobs[0] is job:
            self._jobs.popleft()
            self._queued_bytes -= len(job.chunk)
        self._room.notify_all()


class Outbox:
    """Everything that waits to be sent, and the threads that send it.

    Args:
        channel: where it goes.
        fate: the link's.
        fail: called by a thread of this class that meets an error.
        workers: the most compressor threads; they start with the first stream.
    """

    def __init__(
        self,
        channel: ByteChannel,
        fate: Fate,
        fail: Callable[[Exception], None],
        workers: int | None = None,
    ) -> None:
        self.fate = fate
        self.chunk_bytes = frames.CHUNK_BYTES
        """The most that the peer takes in one frame, or that this side sends."""
        self.heartbeat_seconds = _FIRST_HEARTBEAT_SECONDS
        self.wire_bytes = 0
        self.threads: list[threading.Thread] = []
        self._channel = channel
        self._fail = fail
        self._workers = workers or min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        self.meter = Meter(self._workers)
        self._control: collections.deque[tuple[bytes, Buffer]] = collections.deque()
        self._control_bytes = 0
        self._streams: dict[int, StreamWriter] = {}
        self._turns: collections.deque[int] = collections.deque()
        self._backlog: collections.deque[_Job] = collections.deque()
        self._saying_bye = False
        self._something = fate.condition()
        self._control_room = fate.condition()
        self._work = fate.condition()

    def next_chunk_bytes(self) -> int:
        """Return how much to send in one frame: what the link takes in a moment."""
        moment = int(self.meter.link_rate * _MOMENT_SECONDS)
        return min(self.chunk_bytes, max(frames.SMALL_CHUNK_BYTES, moment))

    def start(self) -> None:
        """Start feeding the channel."""
        self._spawn("link-send", self._feed)

    def _spawn(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(name=name, target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    # What the link queues, the lock held.

    def wait_for_control_room(self) -> None:
        """Wait until the peer has taken most of the earlier control messages."""
        self.fate.wait(
            self._control_room, lambda: self._control_bytes <= frames.MAX_CONTROL_BYTES, None
        )

    def queue_control(
        self, kind: Kind, payload: Buffer = b"", *, stream: int = 0, number: int = 0
    ) -> None:
        """Send a frame before any data that waits; none follows the goodbye."""
        if self._saying_bye and kind != Kind.BYE:
            return
        self._control.append((Header(kind, len(payload), stream, number).pack(), payload))
        self._control_bytes += len(payload)
        self._something.notify()

    def add(self, stream: int, writer: StreamWriter) -> None:
        """Give a stream its turns."""
        self._streams[stream] = writer
        self._turns.append(stream)
        if len(self.threads) <= self._workers:
            self._spawn(f"link-compress-{len(self.threads)}", self._compress)

    def drop(self, stream: int) -> None:
        """Take a stream's turns away."""
        if self._streams.pop(stream, None):
            self._turns.remove(stream)

    def writer(self, stream: int) -> StreamWriter | None:
        """Return the writer of an open stream."""
        return self._streams.get(stream)

    def writers(self) -> list[StreamWriter]:
        """Return the writers of all open streams."""
        return list(self._streams.values())

    def say_bye(self, reason: str) -> None:
        """Send BYE after what is queued, and nothing after it."""
        if not self._saying_bye:
            self._saying_bye = True
            self.queue_control(Kind.BYE, frames.pack_reason(reason))

    # The compressor threads.

    def compress_later(self, job: _Job) -> None:
        """Queue a chunk for a compressor; the lock is held."""
        self._backlog.append(job)
        self._work.notify()

    def _compress(self) -> None:
        compressor = Compressor()
        try:
            while True:
                with self.fate.lock:
                    self.fate.wait(self._work, lambda: bool(self._backlog), None)
                    job = self._backlog.popleft()
                    job.taken = True
                    level = self.meter.next_level()
                self._encode(compressor, job, level)
        except TransportError:
            return  # the link's own end, which everybody knows of already
        except Exception as error:  # noqa: BLE001 - a thread's error is the link's
            self._fail(error)

    def _encode(self, compressor: Compressor, job: _Job, level: int) -> None:
        level = compressor.level_for(job.chunk, level)
        started = time.monotonic()
        frame = compressor.compress(job.chunk, level) if level else None
        seconds = time.monotonic() - started
        with self.fate.lock:
            if level:
                size = len(job.chunk)
                self.meter.compressed(level, size, len(frame) if frame else size, seconds)
            job.payload, job.flags = (frame, frames.FLAG_ZSTD) if frame else (job.chunk, 0)
            job.ready = True
            self._something.notify()

    # The feeding thread.

    def _feed(self) -> None:
        try:
            self._channel.send(frames.PREAMBLE)
            while self._send_next():
                pass
        except Exception as error:  # noqa: BLE001 - a thread's error is the link's
            self._fail(error)

    def _send_next(self) -> bool:
        """Send what is due; returns whether there may be more."""
        with self.fate.lock:
            due = self._wait_for_due()
            if due is None:
                return False
            buffers, writer, job = due
        started = time.monotonic()
        self._channel.send(*buffers)
        seconds = time.monotonic() - started
        size = sum(len(buffer) for buffer in buffers)
        with self.fate.lock:
            self.wire_bytes += size
            if writer is not None and job is not None:
                if size >= _MEASURED_BYTES:
                    self.meter.sent(size, seconds)
                writer.sent(job, size)
            return not (self._saying_bye and not self._control)

    def _wait_for_due(self) -> tuple[list[Buffer], StreamWriter | None, _Job | None] | None:
        """Return all control frames, else one chunk, else a heartbeat."""
        try:
            self.fate.wait(
                self._something,
                lambda: bool(self._control) or self._next_head() is not None,
                self.heartbeat_seconds,
                drain=True,  # a goodbye is still to be answered
            )
        except TransportError:
            return None
        if self._control:
            buffers: list[Buffer] = []
            while self._control:
                buffers.extend(self._control.popleft())
            self._control_bytes = 0
            self._control_room.notify_all()
            return buffers, None, None
        writer = self._next_head()
        job = writer.head() if writer else None
        if writer is None or job is None:
            return [Header(Kind.HEARTBEAT, 0).pack()], None, None
        stream = self._turns[0]
        self._turns.rotate(-1)
        header = Header(Kind.DATA, len(job.payload), stream, len(job.chunk), job.flags)
        return [header.pack(), job.payload], writer, job

    def _next_head(self) -> StreamWriter | None:
        """Turn to the next stream that has a chunk ready, and return its writer."""
        for _ in range(len(self._turns)):
            writer = self._streams[self._turns[0]]
            if writer.head() is not None:
                return writer
            self._turns.rotate(-1)
        return None
