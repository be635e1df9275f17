"""What is on the wire: a preamble, then frames with a fixed header.

Lives here: the header, the kinds of frames, the bounds of each, and the reader
that checks them before it allocates. Must not live here: what a frame causes.
`migrate.transport` only.

    preamble   8 bytes, both ways, once
    frame      header (16 bytes, big endian), then `length` bytes of payload
      kind     1 byte    Kind
      flags    1 byte    bit 0: payload is one zstandard frame
      zero     2 bytes   must be 0
      stream   4 bytes   0 for the link itself; odd ones are opened by the
                         source, even ones by the destination
      length   4 bytes   of the payload as it is on the wire
      number   4 bytes   DATA: length after decompression; CREDIT: bytes granted
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from migrate.errors import ProtocolError
from migrate.transport.channel import ByteChannel, ChannelEnded

# As in PNG: a byte over 127, both line ends, end-of-file of DOS. A terminal or
# a text-mode pipe in between damages it in a way that shows.
PREAMBLE = b"\x89MIG\r\n\x1a\n"

CHUNK_BYTES = 512 * 1024
"""Raw bytes of one DATA frame, as this side sends them over a fast link."""

SMALL_CHUNK_BYTES = 64 * 1024
"""The same over a slow one, so that a message does not wait for long."""

MAX_CHUNK_BYTES = 1024 * 1024
"""Raw bytes of one DATA frame that this side accepts."""

MAX_CONTROL_BYTES = 8 * 1024 * 1024
MAX_NAME_BYTES = 255
MAX_REASON_BYTES = 1024

FLAG_ZSTD = 1

_HEADER = struct.Struct(">BBHIII")
_U64 = struct.Struct(">Q")
HEADER_BYTES = _HEADER.size

# What a reader keeps between frames; larger payloads bypass it.
_BUFFER_BYTES = 64 * 1024
_SHOWN_NOISE_BYTES = 120
_LONGEST_TEXT = 4000


class Kind(enum.IntEnum):
    """The kinds of frames."""

    CONTROL = 1  # a protobuf Control message
    OPEN = 2  # a new stream: budget (8 bytes), then its name in UTF-8
    DATA = 3  # a chunk of a stream
    CREDIT = 4  # the reader of a stream lets its writer send `number` more bytes
    END = 5  # a stream is complete; payload: its raw length (8 bytes)
    RESET = 6  # a stream is given up by either end; payload: why, in UTF-8
    HEARTBEAT = 7  # nothing to say, but alive
    BYE = 8  # the last frame of this side


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What a header of one kind may say."""

    length: range
    on_stream: bool
    number: range = range(1)
    flags: frozenset[int] = frozenset({0})


_EMPTY = range(1)
_BOUNDS: dict[int, _Bounds] = {
    Kind.CONTROL: _Bounds(range(1, MAX_CONTROL_BYTES + 1), on_stream=False),
    Kind.OPEN: _Bounds(range(_U64.size + 1, _U64.size + MAX_NAME_BYTES + 1), on_stream=True),
    Kind.DATA: _Bounds(
        range(1, MAX_CHUNK_BYTES + 1),
        on_stream=True,
        number=range(1, MAX_CHUNK_BYTES + 1),
        flags=frozenset({0, FLAG_ZSTD}),
    ),
    Kind.CREDIT: _Bounds(_EMPTY, on_stream=True, number=range(1, 1 << 31)),
    Kind.END: _Bounds(range(_U64.size, _U64.size + 1), on_stream=True),
    Kind.RESET: _Bounds(range(MAX_REASON_BYTES + 1), on_stream=True),
    Kind.HEARTBEAT: _Bounds(_EMPTY, on_stream=False),
    Kind.BYE: _Bounds(range(MAX_REASON_BYTES + 1), on_stream=False),
}


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a frame."""

    kind: int
    length: int
    stream: int = 0
    number: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """Return the header as it goes on the wire."""
        return _HEADER.pack(self.kind, self.flags, 0, self.stream, self.length, self.number)


def unpack_header(data: bytes | bytearray | memoryview) -> Header:
    """Return the header in the 16 bytes of `data`, every field within its bounds.

    Raises:
        ProtocolError: it is not one that this protocol version allows.
    """
    kind, flags, zero, stream, length, number = _HEADER.unpack(data)
    bounds = _BOUNDS.get(kind)
    if bounds is None:
        raise ProtocolError(f"frame of unknown kind {kind}")
    allowed = (
        zero == 0
        and flags in bounds.flags
        and length in bounds.length
        and number in bounds.number
        and (stream != 0) == bounds.on_stream
    )
    # Uncompressed data is as long as it says; compressed data is worth its frame.
    if kind == Kind.DATA:
        allowed = allowed and (length < number if flags & FLAG_ZSTD else length == number)
    if not allowed:
        raise ProtocolError(
            f"{Kind(kind).name} frame out of bounds: stream {stream}, length {length}, "
            f"number {number}, flags {flags:#x}"
        )
    return Header(kind, length, stream, number, flags)


def pack_open(name: str, budget_bytes: int) -> bytes:
    """Return the payload of an OPEN frame."""
    return _U64.pack(budget_bytes) + name.encode()


def unpack_open(payload: memoryview) -> tuple[str, int]:
    """Return name and budget out of the payload of an OPEN frame.

    Raises:
        ProtocolError: the name is not UTF-8.
    """
    (budget_bytes,) = _U64.unpack_from(payload)
    return _text(payload[_U64.size :]), budget_bytes


def pack_total(total_bytes: int) -> bytes:
    """Return the payload of an END frame."""
    return _U64.pack(total_bytes)


def unpack_total(payload: memoryview) -> int:
    """Return the raw length of the whole stream out of an END frame."""
    total: int = _U64.unpack(payload)[0]
    return total


def pack_reason(reason: str) -> bytes:
    """Return the payload of a RESET or BYE frame, cut to what fits."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


def unpack_reason(payload: memoryview) -> str:
    """Return the reason of a RESET or BYE frame, fit for one line of a message."""
    return fit_for_people(bytes(payload).decode(errors="replace"))


def fit_for_people(text: str) -> str:
    """Return what a peer said as one line without control characters, cut to a length.

    It may end on a terminal, where some sequences of characters are commands.
    """
    return "".join(char if char.isprintable() else " " for char in text[:_LONGEST_TEXT])


def _text(payload: memoryview) -> str:
    try:
        return bytes(payload).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("stream name is not UTF-8") from error


class FrameReader:
    """Reads frames off a channel.

    Small frames are parsed out of one buffer; the bulk of a large payload goes
    from the channel straight into the buffer that its consumer will get.
    """

    def __init__(self, channel: ByteChannel) -> None:
        self._channel = channel
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self.received_bytes = 0

    def read_preamble(self) -> None:
        """Consume the peer's preamble.

        Raises:
            ProtocolError: something else came, such as the output of a login script.
            ChannelEnded: nothing came.
        """
        got = bytearray(len(PREAMBLE))
        view = memoryview(got)
        filled = 0
        while filled < len(got):
            count = self._take(view[filled:])
            if not count:
                break
            filled += count
            if got[:filled] != PREAMBLE[:filled]:
                raise self._noise(bytes(got[:filled]))
        if filled < len(got):
            raise self._ended()

    def _noise(self, seen: bytes) -> ProtocolError:
        seen += bytes(self._buffer[self._start : self._end])
        text = seen[:_SHOWN_NOISE_BYTES].decode(errors="replace").splitlines()[0].strip()
        return ProtocolError(
            f"{self._channel.peer}: expected migrate's agent, but something printed {text!r}",
            "Remove output from the login scripts (~/.bashrc) of the user on that host.",
        )

    def read(self) -> tuple[Header, memoryview]:
        """Return the next frame.

        Raises:
            ProtocolError: the header is not acceptable; nothing was allocated for it.
            ChannelEnded: the channel ended or broke, also between two frames.
        """
        head = bytearray(HEADER_BYTES)
        self._fill(memoryview(head))
        header = unpack_header(head)
        payload = memoryview(bytearray(header.length))
        self._fill(payload)
        return header, payload

    def _fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            count = self._take(view[filled:])
            if not count:
                raise self._ended()
            filled += count

    def _take(self, view: memoryview) -> int:
        """Return how many bytes were put into `view`; 0 at the channel's end."""
        if self._start == self._end:
            if len(view) >= _BUFFER_BYTES:
                count = self._channel.recv_into(view)
                self.received_bytes += count
                return count
            self._start = 0
            self._end = self._channel.recv_into(self._buffer)
            self.received_bytes += self._end
        count = min(len(view), self._end - self._start)
        view[:count] = self._buffer[self._start : self._start + count]
        self._start += count
        return count

    def _ended(self) -> ChannelEnded:
        return ChannelEnded(f"{self._channel.peer}: the connection ended without a goodbye")
