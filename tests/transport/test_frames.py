"""The frame codec: what is packed comes back, and nothing else comes in."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from migrate.errors import LinkError, ProtocolError, TransportError
from migrate.transport import frames
from migrate.transport.frames import FrameReader, Header, Kind


class Bytes:
    """A channel that delivers given bytes in pieces of a given size."""

    peer = "host2"

    def __init__(self, data: bytes, piece: int = 1 << 20) -> None:
        self._data = data
        self._piece = piece

    def recv_into(self, view: memoryview) -> int:
        count = min(len(view), len(self._data), self._piece)
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        raise AssertionError(buffers)

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass

    def explain(self) -> TransportError | None:
        return None


@st.composite
def frame(draw: st.DrawFn) -> tuple[Header, bytes]:
    kind = draw(st.sampled_from(list(Kind)))
    on_stream = kind in {Kind.OPEN, Kind.DATA, Kind.CREDIT, Kind.END, Kind.RESET}
    stream = draw(st.integers(1, (1 << 32) - 1)) if on_stream else 0
    sizes = {
        Kind.CONTROL: (1, 300),
        Kind.OPEN: (9, 100),
        Kind.DATA: (1, 200_000),
        Kind.END: (8, 8),
        Kind.RESET: (0, 100),
        Kind.BYE: (0, 100),
    }
    low, high = sizes.get(kind, (0, 0))
    length = draw(st.integers(low, high))
    payload = draw(st.randoms(use_true_random=False)).randbytes(length)
    number = draw(st.integers(1, (1 << 31) - 1)) if kind == Kind.CREDIT else 0
    flags = 0
    if kind == Kind.DATA:
        flags = draw(st.sampled_from([0, frames.FLAG_ZSTD]))
        number = length + draw(st.integers(1, 1000)) if flags else length
    return Header(kind, length, stream, number, flags), payload


@given(st.lists(frame(), max_size=5), st.integers(1, 70_000))
def test_frames_come_back_as_they_were_packed_however_the_bytes_arrive(
    sent: list[tuple[Header, bytes]], piece: int
) -> None:
    wire = b"".join(header.pack() + payload for header, payload in sent)
    reader = FrameReader(Bytes(frames.PREAMBLE + wire, piece))
    reader.read_preamble()
    got = [reader.read() for _ in sent]
    assert [(header, bytes(payload)) for header, payload in got] == sent
    assert reader.received_bytes == len(frames.PREAMBLE) + len(wire)


@given(st.binary(min_size=frames.HEADER_BYTES, max_size=frames.HEADER_BYTES))
def test_any_header_is_either_within_bounds_or_refused(data: bytes) -> None:
    try:
        header = frames.unpack_header(data)
    except ProtocolError:
        return
    assert header.length <= max(frames.MAX_CONTROL_BYTES, frames.MAX_CHUNK_BYTES)
    assert header.pack() == data


@given(frame(), st.data())
def test_a_header_with_one_flipped_bit_is_never_taken_for_the_same_frame(
    sent: tuple[Header, bytes], data: st.DataObject
) -> None:
    packed = bytearray(sent[0].pack())
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    try:
        assert frames.unpack_header(packed) != sent[0]
    except ProtocolError:
        return


@given(frame(), st.data())
def test_a_frame_cut_anywhere_is_an_error_and_never_a_shorter_frame(
    sent: tuple[Header, bytes], data: st.DataObject
) -> None:
    wire = sent[0].pack() + sent[1]
    cut = data.draw(st.integers(0, len(wire) - 1))
    with pytest.raises(LinkError, match="host2: the connection ended"):
        FrameReader(Bytes(wire[:cut])).read()


@pytest.mark.parametrize(
    "header",
    [
        Header(99, 0),
        Header(Kind.CONTROL, 0),
        Header(Kind.CONTROL, frames.MAX_CONTROL_BYTES + 1),
        Header(Kind.CONTROL, 1, stream=1),
        Header(Kind.DATA, 5, stream=0, number=5),
        Header(Kind.DATA, 5, stream=1, number=6),
        Header(Kind.DATA, 6, stream=1, number=6, flags=frames.FLAG_ZSTD),
        Header(Kind.DATA, 5, stream=1, number=(1 << 32) - 1, flags=frames.FLAG_ZSTD),
        Header(Kind.DATA, (1 << 32) - 1, stream=1, number=(1 << 32) - 1),
        Header(Kind.DATA, 5, stream=1, number=5, flags=2),
        Header(Kind.CREDIT, 0, stream=1, number=0),
        Header(Kind.CREDIT, 1, stream=1, number=1),
        Header(Kind.END, 7, stream=1),
        Header(Kind.HEARTBEAT, 1),
        Header(Kind.RESET, frames.MAX_REASON_BYTES + 1, stream=1),
    ],
    ids=str,
)
def test_a_header_out_of_bounds_is_refused_before_its_payload_is_read(header: Header) -> None:
    with pytest.raises(ProtocolError):
        FrameReader(Bytes(header.pack())).read()


@given(st.text(min_size=1, max_size=60), st.integers(0, (1 << 64) - 1))
def test_names_and_budgets_come_back(name: str, budget: int) -> None:
    assume(len(name.encode(errors="replace")) == len(name.encode(errors="ignore")))
    assert frames.unpack_open(memoryview(frames.pack_open(name, budget))) == (name, budget)


@given(st.text(st.characters(codec="utf-8"), max_size=2000))
def test_a_reason_of_any_length_and_kind_becomes_one_printable_line(reason: str) -> None:
    packed = frames.pack_reason(reason)
    assert len(packed) <= frames.MAX_REASON_BYTES
    assert all(char.isprintable() for char in frames.unpack_reason(memoryview(packed)))


def test_output_of_a_login_script_is_shown_and_blamed() -> None:
    reader = FrameReader(Bytes(b"Welcome to host2!\r\nHave fun\n" + frames.PREAMBLE))
    with pytest.raises(ProtocolError, match=r"printed 'Welcome to host2!'") as raised:
        reader.read_preamble()
    assert ".bashrc" in raised.value.hint
