"""The link: one connection between source and destination, and all that is on it.

Lives here: the handshake, the thread that receives, the dispatch of frames, the
watch over a silent peer, opening and accepting streams, closing. Must not live
here: SSH, the meaning of messages. `migrate.live` imports it.

    with Link(channel, "source") as link:
        peer = link.handshake()
        ...

Threads: link-receive, link-send, link-watch, and compressors once a stream is
open. All of them are gone when `close` returns.
"""

from __future__ import annotations

import collections
import hashlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Literal, Self

from google.protobuf.message import DecodeError

from migrate import __version__
from migrate.errors import LinkClosed, LinkError, ProtocolError, TransportError
from migrate.transport import frames
from migrate.transport.calls import Messages
from migrate.transport.channel import ByteChannel, ChannelEnded
from migrate.transport.compression import Conditions
from migrate.transport.control_pb2 import Control, Hello
from migrate.transport.fate import Fate
from migrate.transport.frames import FrameReader, Header, Kind
from migrate.transport.receiving import StreamReader
from migrate.transport.sending import Outbox, StreamWriter

Role = Literal["source", "destination"]

OLDEST_VERSION = 1
NEWEST_VERSION = 1
FEATURES = ("zstd",)

_WINDOW_BYTES = 16 * 1024 * 1024
_MOST_STREAMS = 32
_LARGEST_BUDGET = 1 << 50
# A peer that speaks heartbeats of its own wish may not ask for a flood of them.
_SHORTEST_HEARTBEAT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Peer:
    """What both sides agreed on in the handshake.

    Attributes:
        version: of the protocol, the newest that both speak.
        features: those that both have.
        host: the other side's host name.
        program: its name and version.
        session: 32 hex digits that no other session has, the same on both sides.
    """

    version: int
    features: frozenset[str]
    host: str
    program: str
    session: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the wire since the link was made, headers and heartbeats included."""

    sent_bytes: int
    received_bytes: int


class Link(Messages):
    """One link over one channel, which it owns.

    Messages (`request`, `send`, `receive`, see `calls.Messages`) overtake the
    data of streams; data keeps its order within a stream.

    Args:
        channel: to the peer.
        role: which side this is.
        silence_seconds: a peer from which no byte came for so long is given up.
        features: what this side can do beyond protocol version 1.
    """

    def __init__(
        self,
        channel: ByteChannel,
        role: Role,
        *,
        silence_seconds: float = 20.0,
        features: tuple[str, ...] = FEATURES,
    ) -> None:
        self._channel = channel
        self._role = role
        self._silence_seconds = silence_seconds
        self._features = features
        fate = Fate()
        super().__init__(fate, Outbox(channel, fate, self._fail), channel.peer)
        self._frames = FrameReader(channel)
        self._nonce = os.urandom(16)
        self._theirs: Hello | None = None
        self._peer_window = 0
        self._next_stream = 1 if role == "source" else 2
        self._readers: dict[int, StreamReader] = {}
        self._last_peer_stream = 0
        self._offered: dict[str, collections.deque[StreamReader]] = {}
        self._refusal = ""
        self._offer = self._fate.condition()
        self._greeting = self._fate.condition()
        self._watching = self._fate.condition()
        self._closed = False
        self._own_threads: list[threading.Thread] = []

    # Beginning and end.

    def handshake(self, timeout_seconds: float = 30.0) -> Peer:
        """Greet the peer and return what both sides have in common.

        Raises:
            LinkError: nothing came in time, or the connection ended.
            ProtocolError: the other side does not speak this protocol, or no
                version of it that this side speaks.
        """
        hello = Hello(
            oldest_version=OLDEST_VERSION,
            newest_version=NEWEST_VERSION,
            features=self._features,
            nonce=self._nonce,
            program=f"migrate {__version__}",
            host=socket.gethostname(),
            role=self._role,
            max_chunk_bytes=frames.MAX_CHUNK_BYTES,
            window_bytes=_WINDOW_BYTES,
            silence_ms=min(int(self._silence_seconds * 1000), (1 << 32) - 1),
        )
        with self._fate.lock:
            self._outbox.queue_control(Kind.CONTROL, Control(hello=hello).SerializeToString())
        self._outbox.start()
        for name, run in (("link-receive", self._receive_all), ("link-watch", self._watch)):
            thread = threading.Thread(name=name, target=run, daemon=True)
            self._own_threads.append(thread)
            thread.start()
        with self._fate.lock:
            greeted = self._fate.wait(
                self._greeting, lambda: self._theirs is not None, timeout_seconds
            )
            theirs = self._theirs
        if not greeted or theirs is None:
            self._fail(LinkError(f"{self.peer_name}: no greeting within {timeout_seconds:g} s"))
            self._fate.check()
            raise AssertionError
        return self._agree(theirs)

    def _agree(self, theirs: Hello) -> Peer:
        version = min(theirs.newest_version, NEWEST_VERSION)
        host = frames.fit_for_people(theirs.host)
        if version < max(theirs.oldest_version, OLDEST_VERSION):
            older = "this host" if theirs.oldest_version > NEWEST_VERSION else host
            error = ProtocolError(
                f"{self.peer_name}: speaks protocol {theirs.oldest_version} to "
                f"{theirs.newest_version}, this host {OLDEST_VERSION} to {NEWEST_VERSION}",
                f"Upgrade migrate on {older}.",
            )
            self._fail(error)
            raise error
        first, second = self._nonce, theirs.nonce
        if self._role == "destination":
            first, second = second, first
        return Peer(
            version=version,
            features=frozenset(self._features) & frozenset(theirs.features),
            host=host,
            program=frames.fit_for_people(theirs.program),
            session=hashlib.sha256(first + second).hexdigest()[:32],
        )

    def close(self, timeout_seconds: float = 5.0) -> None:
        """End the link: streams are given up, what is queued goes out, both say goodbye.

        Never raises: a peer that does not answer within `timeout_seconds` is
        left. Afterwards no thread and no descriptor of the link is there.
        """
        if self._closed:
            return
        self._closed = True
        started = bool(self._own_threads)
        with self._fate.lock:
            if self._fate.error is None and started:
                self._abandon_streams("the link is being closed")
                self._outbox.say_bye("")
                self._wait_for_end(timeout_seconds)
        # The first to fail it here means that the peer has not answered.
        answered = not self._fate.fail(LinkClosed(f"{self.peer_name}: the link was closed"))
        if answered:
            self._join([*self._own_threads, *self._outbox.threads], 1.0)
        self._channel.abort()
        self._join([*self._own_threads, *self._outbox.threads], None)
        with self._fate.lock:
            handlers = list(self.message_threads)
        self._join(handlers, timeout_seconds)
        self._channel.close()

    def _wait_for_end(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self._fate.error is None and (left := deadline - time.monotonic()) > 0:
            self._watching.wait(left)

    def _abandon_streams(self, reason: str) -> None:
        for writer in self._outbox.writers():
            writer.cut(reason)
        for number, reader in self._readers.items():
            reader.give_up(reason)
            self._queue(Kind.RESET, frames.pack_reason(reason), number, 0)

    def _join(self, threads: list[threading.Thread], timeout_seconds: float | None) -> None:
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Streams.

    def open_stream(self, name: str, budget_bytes: int = _LARGEST_BUDGET) -> StreamWriter:
        """Start a stream to the peer.

        Args:
            name: what the peer accepts it by, at most 255 bytes.
            budget_bytes: the most that will be written; the peer is told.

        Raises:
            LinkError: the link no longer stands.
        """
        with self._fate.lock:
            self._fate.check()
            if not 0 < len(name.encode()) <= frames.MAX_NAME_BYTES:
                raise ProtocolError(f"stream name {name!r} is empty or too long")
            stream = self._next_stream
            self._next_stream += 2
            writer = StreamWriter(self._outbox, stream, name, budget_bytes, self._peer_window)
            self._queue(Kind.OPEN, frames.pack_open(name, budget_bytes), stream, 0)
            self._outbox.add(stream, writer)
            return writer

    def accept_stream(
        self,
        name: str,
        *,
        max_bytes: int = _LARGEST_BUDGET,
        timeout_seconds: float | None = None,
    ) -> StreamReader:
        """Wait for the peer to open a stream of that name, and return it.

        Args:
            name: as given to the peer's `open_stream`.
            max_bytes: a stream that declares more is refused.
            timeout_seconds: how long to wait.

        Raises:
            LinkError: the link broke, or nothing came in time.
            ProtocolError: the stream declares more than `max_bytes`.
        """
        with self._fate.lock:
            if not self._fate.wait(
                self._offer,
                lambda: bool(name in self._offered or self._refusal),
                timeout_seconds,
                drain=True,
            ):
                raise LinkError(f"stream {name}: not opened within {timeout_seconds} s")
            if self._refusal:
                raise LinkError(f"stream {name}: {self._refusal}")
            reader = self._offered[name].popleft()
            if not self._offered[name]:
                del self._offered[name]
        if reader.budget_bytes > max_bytes:
            reason = f"declares {reader.budget_bytes} bytes where {max_bytes} are allowed"
            reader.close(reason)
            raise ProtocolError(f"stream {name}: {reason}")
        return reader

    @property
    def conditions(self) -> Conditions:
        """How fast link and compressors were measured to be; guesses before any stream."""
        with self._fate.lock:
            return self._outbox.meter.conditions

    def refuse_streams(self, reason: str) -> None:
        """Take in no stream any more; messages go on.

        Whoever waits for one, or reads one, gets `reason` as a LinkError, and so does
        the peer that writes one.
        """
        with self._fate.lock:
            self._refusal = reason
            self._offer.notify_all()
            readers = list(self._readers.values())
        for reader in readers:
            reader.close(reason)

    def check(self) -> None:
        """Raise the link's error, if it is known to be broken.

        Raises:
            LinkError: it is.
        """
        self._fate.check()

    @property
    def traffic(self) -> Traffic:
        """Bytes on the wire so far."""
        return Traffic(self._outbox.wire_bytes, self._frames.received_bytes)

    # The receiving thread.

    def _receive_all(self) -> None:
        try:
            self._frames.read_preamble()
            while self._dispatch(*self._frames.read()):
                pass
        except Exception as error:  # noqa: BLE001 - a thread's error is the link's
            self._fail(error)

    def _dispatch(self, header: Header, payload: memoryview) -> bool:
        """Act on one frame; returns whether more will come."""
        if header.kind == Kind.CONTROL:
            self._control_arrived(payload)
        elif self._theirs is None:
            raise ProtocolError(f"{self.peer_name}: did not start with a greeting")
        elif header.kind == Kind.BYE:
            reason = frames.unpack_reason(payload)
            text = f"closed the link: {reason}" if reason else "closed the link"
            # At once: the peer may be gone as soon as it has our goodbye.
            with self._fate.lock:
                self._outbox.say_bye("")
                self._fate.fail_locked(LinkClosed(f"{self.peer_name}: {text}"))
            return False
        elif header.kind != Kind.HEARTBEAT:
            with self._fate.lock:
                self._stream_frame_arrived(header, payload)
        return True

    def _control_arrived(self, payload: memoryview) -> None:
        try:
            message = Control.FromString(bytes(payload))
        except DecodeError as error:
            raise ProtocolError(f"{self.peer_name}: sent a damaged message") from error
        if not message.HasField("hello"):
            if self._theirs is None:
                raise ProtocolError(f"{self.peer_name}: did not start with a greeting")
            self.message_arrived(message, len(payload))
            return
        hello = message.hello
        if self._theirs is not None:
            raise ProtocolError(f"{self.peer_name}: greeted twice")
        if hello.role == self._role or len(hello.nonce) != len(self._nonce):
            raise ProtocolError(f"{self.peer_name}: greeted as {hello.role!r}, as this side is")
        chunk_bytes = min(frames.CHUNK_BYTES, hello.max_chunk_bytes)
        if not frames.SMALL_CHUNK_BYTES <= chunk_bytes <= hello.window_bytes:
            raise ProtocolError(f"{self.peer_name}: greeted with a window too small to send into")
        with self._fate.lock:
            self._theirs = hello
            self._peer_window = hello.window_bytes
            self._outbox.chunk_bytes = chunk_bytes
            patience = min(self._silence_seconds, hello.silence_ms / 1000)
            self._outbox.heartbeat_seconds = max(
                _SHORTEST_HEARTBEAT_SECONDS, min(1.0, patience / 4)
            )
            self._greeting.notify_all()

    def _stream_frame_arrived(self, header: Header, payload: memoryview) -> None:
        if header.kind == Kind.OPEN:
            self._opened(header.stream, payload)
            return
        if header.kind == Kind.CREDIT:
            # None for a stream that ended or was aborted meanwhile.
            if writer := self._outbox.writer(header.stream):
                writer.grant(header.number)
            return
        reader = self._readers.get(header.stream)
        if header.kind == Kind.DATA:
            if reader is None:
                raise ProtocolError(f"{self.peer_name}: data for stream {header.stream}, not open")
            reader.arrive(header, payload)
        elif header.kind == Kind.END:
            if reader is None:
                raise ProtocolError(f"{self.peer_name}: end of stream {header.stream}, not open")
            reader.complete(frames.unpack_total(payload))
            del self._readers[header.stream]
        elif reader is not None:
            reader.give_up(frames.unpack_reason(payload))
            del self._readers[header.stream]
        elif writer := self._outbox.writer(header.stream):
            writer.refuse(frames.unpack_reason(payload))

    def _opened(self, stream: int, payload: memoryview) -> None:
        name, budget_bytes = frames.unpack_open(payload)
        if stream <= self._last_peer_stream or stream % 2 == self._next_stream % 2:
            raise ProtocolError(f"{self.peer_name}: opened stream {stream} out of order")
        # One that is complete and that nobody accepts holds memory as well.
        unaccepted = sum(map(len, self._offered.values()))
        if max(len(self._readers), unaccepted) >= _MOST_STREAMS:
            raise ProtocolError(f"{self.peer_name}: more than {_MOST_STREAMS} streams at once")
        self._last_peer_stream = stream
        reader = StreamReader(self._fate, self._queue, stream, name, budget_bytes, _WINDOW_BYTES)
        self._readers[stream] = reader
        self._offered.setdefault(name, collections.deque()).append(reader)
        self._offer.notify_all()

    def _queue(self, kind: Kind, payload: bytes, stream: int, number: int) -> None:
        self._outbox.queue_control(kind, payload, stream=stream, number=number)

    # Failing.

    def _watch(self) -> None:
        """Give up a peer that is silent for too long.

        Only time in which this thread itself ran counts: a process that was
        stopped for a minute has not been left by its peer.
        """
        step = min(1.0, self._silence_seconds / 8)
        silent = 0.0
        seen = -1
        with self._fate.lock:
            while self._fate.error is None:
                before = time.monotonic()
                self._watching.wait(step)
                silent += min(time.monotonic() - before, 2 * step)
                # Until the greeting the handshake's own time counts.
                if seen != self._frames.received_bytes or self._theirs is None:
                    seen, silent = self._frames.received_bytes, 0.0
                if silent >= self._silence_seconds:
                    break
            else:
                return
        self._fail(LinkError(f"{self.peer_name}: silent for {self._silence_seconds:g} s"))

    def _fail(self, error: Exception) -> None:
        """Fail the link; what the channel knows of its end is better than that it ended.

        Before the greeting it is the login, the agent's start or its version
        that failed, and the error is that; afterwards it is the link.
        """
        if not isinstance(error, TransportError):
            text = f"{type(error).__name__}: {error}"
            error = ProtocolError(f"{self.peer_name}: unexpected failure in the link: {text}")
        if isinstance(error, ChannelEnded) and self._fate.error is None:
            cause = self._channel.explain() or LinkError(error.message, error.hint)
        else:
            cause = error
        if self._theirs is not None and not isinstance(cause, LinkError):
            cause = LinkError(cause.message, cause.hint)
        if self._fate.fail(cause):
            self._channel.abort()
