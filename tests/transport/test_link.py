"""Two ends of a link in one process: messages, streams, and every way to end."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import (
    ContainerExists,
    LinkClosed,
    LinkError,
    PeerError,
    ProtocolError,
)
from migrate.transport import frames
from migrate.transport import link as link_module
from migrate.transport.channel import ByteChannel, DescriptorChannel, channel_pair
from migrate.transport.control_pb2 import Call, Control, Hello
from migrate.transport.frames import Header, Kind
from migrate.transport.link import Link
from migrate.transport.sending import StreamWriter

Links = tuple[Link, Link]


class Background:
    """Something that runs beside the test; its result or error is there afterwards."""

    def __init__(self, run: Callable[..., Any], *args: object) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run, *args))
        self._thread.start()

    def _run(self, run: Callable[..., Any], *args: object) -> None:
        try:
            self.result = run(*args)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def join(self) -> Any:
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def write_for_ever(writer: StreamWriter) -> None:
    while True:
        writer.write(os.urandom(100_000))


def raw_peer(*, greet: bool = True) -> tuple[Link, ByteChannel, Background]:
    """A link as source, and the bare channel to it, for a peer that misbehaves."""
    left, right = channel_pair()
    link = Link(left, "source", silence_seconds=10)
    greeting = Background(lambda: link.handshake(timeout_seconds=5))
    if greet:
        hello = Hello(
            oldest_version=1,
            newest_version=1,
            nonce=bytes(16),
            role="destination",
            max_chunk_bytes=frames.MAX_CHUNK_BYTES,
            window_bytes=1 << 20,
            silence_ms=10_000,
        )
        data = Control(id=1, hello=hello).SerializeToString()
        right.send(frames.PREAMBLE, Header(Kind.CONTROL, len(data)).pack(), data)
        greeting.join()
    return link, right, greeting


# Messages.


def test_both_sides_agree_on_version_features_and_a_session_of_its_own() -> None:
    sessions = set()
    for _ in range(2):
        left, right = channel_pair()
        with Link(left, "source", features=("a", "b")) as source:
            destination = Link(right, "destination", features=("b", "c"))
            greeting = Background(destination.handshake)
            here, there = source.handshake(), greeting.join()
            closing = Background(destination.close)
        closing.join()
        assert here.session == there.session
        assert here.features == there.features == {"b"}
        assert here.version == link_module.NEWEST_VERSION
        sessions.add(here.session)
    assert len(sessions) == 2


def test_a_call_returns_what_the_peer_answers_and_raises_what_it_raises(links: Links) -> None:
    source, destination = links

    def refuse(name: str) -> None:
        raise ContainerExists(name)

    serving = Background(lambda: destination.serve({"add": sum, "refuse": refuse}))
    assert source.call("add", [1, 2, 3], 5) == 6
    with pytest.raises(PeerError) as raised:
        source.call("refuse", "web", 5)
    assert raised.value.code == "exists"
    assert str(raised.value) == 'peer: container "web" already exists'
    assert "migrate delete web" in raised.value.hint
    with pytest.raises(PeerError, match="unheard: unknown here"):
        source.call("unheard", None, 5)
    source.close()
    serving.join()


def test_calls_go_both_ways_at_once_and_answers_find_their_callers(links: Links) -> None:
    source, destination = links
    serving = [Background(side.serve, {"echo": str}) for side in links]

    def call_often(link: Link, tag: str) -> None:
        for number in range(50):
            assert link.call("echo", f"{tag}{number}", 5) == f"{tag}{number}"

    callers = [
        Background(call_often, side, f"{n}-")
        for n, side in enumerate((source, destination, source, destination))
    ]
    for caller in callers:
        caller.join()
    destination.close()
    for server in serving:
        server.join()


def test_events_arrive_in_order_and_answer_nobody(links: Links) -> None:
    source, destination = links
    got: list[int] = []
    done = threading.Event()

    def handle(event: int) -> None:
        got.append(event)
        if event == 99:
            done.set()

    source.on_event(handle)
    for number in range(100):
        destination.send_event(number)
    assert done.wait(5)
    assert got == list(range(100))


def test_a_message_too_large_for_a_frame_is_refused_by_the_sender(links: Links) -> None:
    with pytest.raises(ProtocolError, match="where 8388608 are the most"):
        links[0].send_event("x" * frames.MAX_CONTROL_BYTES)
    assert links[1].receive(0.01) is None


def test_a_peer_that_floods_with_calls_is_cut_off() -> None:
    link, peer, _ = raw_peer()
    with link:
        data = Control(id=2, call=Call(method="x")).SerializeToString()
        flood = (Header(Kind.CONTROL, len(data)).pack() + data) * 5000
        waiting = Background(lambda: link.call("y"))
        peer.send(flood)
        with pytest.raises(ProtocolError, match="more messages than are received"):
            waiting.join()
    peer.close()


# Streams.


@pytest.mark.parametrize("size", [0, 1, 100, frames.CHUNK_BYTES, 5_000_001])
@pytest.mark.parametrize("copy", [True, False], ids=["write", "give"])
def test_a_stream_arrives_whole_and_in_order(links: Links, size: int, copy: bool) -> None:  # noqa: FBT001
    source, destination = links
    data = os.urandom(size // 2) + b"ab" * (size // 4) + b"x" * (size % 4)

    def read() -> bytes:
        with destination.accept_stream("memory", timeout_seconds=5) as reader:
            return b"".join(reader)

    reading = Background(read)
    with source.open_stream("memory", budget_bytes=len(data)) as writer:
        for start in range(0, len(data), 77_777):
            piece = memoryview(data)[start : start + 77_777]
            (writer.write if copy else writer.give)(piece)
    assert reading.join() == data
    assert writer.raw_bytes == len(data)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=3000),
            st.builds(bytes, st.integers(1, 400_000)),
        ),
        max_size=12,
    ),
    st.integers(700, 100_000),
)
def test_whatever_is_written_is_read_whatever_the_sizes(
    links: Links, pieces: list[bytes], step: int
) -> None:
    source, destination = links

    def read() -> bytes:
        view = memoryview(bytearray(step))
        got = b""
        with destination.accept_stream("s", timeout_seconds=5) as reader:
            while count := reader.read_into(view):
                got += view[:count]
        return got

    reading = Background(read)
    with source.open_stream("s") as writer:
        for piece in pieces:
            writer.write(piece)
    assert reading.join() == b"".join(pieces)


def test_a_reader_that_does_not_read_stops_the_writer_within_the_window(links: Links) -> None:
    source, destination = links
    chunk = os.urandom(1 << 20)

    def write() -> None:
        with source.open_stream("slow") as writer:
            for _ in range(64):
                writer.write(chunk)

    writing = Background(write)
    reader = destination.accept_stream("slow", timeout_seconds=5)
    time.sleep(0.3)
    assert reader.raw_bytes <= link_module._WINDOW_BYTES
    assert destination.receive(0.01) is None, "messages pass a stream that waits"
    total = hashlib.sha256()
    for piece in reader:
        total.update(piece)
    writing.join()
    assert total.digest() == hashlib.sha256(chunk * 64).digest()


def test_a_message_overtakes_the_bulk_that_waits(links: Links) -> None:
    source, destination = links
    serving = Background(lambda: destination.serve({"ping": lambda value: value}))
    writer = source.open_stream("bulk")
    writing = Background(write_for_ever, writer)
    reader = destination.accept_stream("bulk", timeout_seconds=5)
    time.sleep(0.2)
    before = time.monotonic()
    assert source.call("ping", 1, 5) == 1
    assert time.monotonic() - before < 1
    reader.close("enough")
    with pytest.raises(LinkError, match="stream bulk: given up by the reader: enough"):
        writing.join()
    source.close()
    serving.join()


def test_streams_beside_each_other_keep_apart(links: Links) -> None:
    source, destination = links
    contents = {f"s{n}": os.urandom(700_000) + bytes(300_000) for n in range(6)}

    def write(name: str) -> None:
        side = source if int(name[1:]) % 2 else destination
        with side.open_stream(name) as writer:
            writer.write(contents[name])

    def read(name: str) -> bytes:
        side = destination if int(name[1:]) % 2 else source
        with side.accept_stream(name, timeout_seconds=5) as reader:
            return b"".join(reader)

    writers = [Background(write, name) for name in contents]
    readers = {name: Background(read, name) for name in contents}
    for writer in writers:
        writer.join()
    assert {name: reader.join() for name, reader in readers.items()} == contents


def test_a_stream_given_up_by_its_writer_never_looks_complete(links: Links) -> None:
    source, destination = links

    def write_half() -> None:
        message = "disk on fire"
        with source.open_stream("half") as writer:
            writer.write(b"half of it")
            raise RuntimeError(message)

    with pytest.raises(RuntimeError):
        write_half()
    with (
        destination.accept_stream("half", timeout_seconds=5) as reader,
        pytest.raises(LinkError, match="given up by the writer: disk on fire"),
    ):
        list(reader)


def test_a_budget_declared_too_large_is_refused_and_one_overspent_is_caught(links: Links) -> None:
    source, destination = links
    writer = source.open_stream("big", budget_bytes=1 << 40)
    with pytest.raises(ProtocolError, match="declares 1099511627776 bytes where 1000 are allowed"):
        destination.accept_stream("big", max_bytes=1000, timeout_seconds=5)
    with pytest.raises(LinkError, match="where 1000 are allowed"):
        write_for_ever(writer)
    writer.abort("over")
    small = source.open_stream("small", budget_bytes=10)
    with pytest.raises(LinkError, match="more than the declared 10 bytes"):
        small.write(b"x" * 11)
    small.abort("over")


def test_hundreds_of_streams_given_up_by_their_readers_leave_room_for_more(links: Links) -> None:
    source, destination = links
    for number in range(200):
        writer = source.open_stream(f"s{number}")
        writer.write(b"data")
        destination.accept_stream(f"s{number}", timeout_seconds=5).close("no")
        writer.abort("no")
    with source.open_stream("last") as writer:
        writer.write(b"x")
    with destination.accept_stream("last", timeout_seconds=5) as reader:
        assert b"".join(reader) == b"x"


# A peer that breaks the protocol.


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        (Header(Kind.DATA, 1, stream=2, number=1).pack() + b"x", "data for stream 2, not open"),
        (Header(Kind.END, 8, stream=2).pack() + bytes(8), "end of stream 2, not open"),
        (Header(Kind.OPEN, 9, stream=3).pack() + bytes(8) + b"s", "opened stream 3 out of order"),
        (Header(Kind.OPEN, 9, stream=2).pack() + bytes(8) + b"\xff", "not UTF-8"),
        (Header(Kind.CONTROL, 3).pack() + b"\xff\xff\xff", "damaged message"),
        (b"\x00" * 16, "frame of unknown kind 0"),
        (
            (Header(Kind.OPEN, 9, stream=2).pack() + b"\xff" * 8 + b"s")
            + (Header(Kind.DATA, 1 << 20, stream=2, number=1 << 20).pack() + bytes(1 << 20)) * 17,
            "more than it had credit for",
        ),
        (
            (Header(Kind.OPEN, 9, stream=2).pack() + bytes(7) + b"\x05" + b"s")
            + (Header(Kind.DATA, 6, stream=2, number=6).pack() + bytes(6)),
            "more than the declared 5 bytes",
        ),
        (
            (Header(Kind.OPEN, 9, stream=2).pack() + b"\xff" * 8 + b"s")
            + (Header(Kind.END, 8, stream=2).pack() + bytes(7) + b"\x05"),
            "0 bytes arrived of 5",
        ),
        (
            b"".join(
                Header(Kind.OPEN, 9, stream=2 * n).pack() + bytes(8) + b"s" for n in range(1, 70)
            ),
            "more than 64 streams",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_frame_that_the_protocol_forbids_ends_the_link(wire: bytes, complaint: str) -> None:
    link, peer, _ = raw_peer()
    waiting = Background(link.receive)
    sending = Background(peer.send, wire)
    with pytest.raises(ProtocolError, match=complaint):
        waiting.join()
    link.close()
    peer.abort()
    try:
        sending.join()
    except LinkError:
        pass
    peer.close()


def test_a_peer_that_greets_wrongly_or_not_at_all_is_refused() -> None:
    cases: list[tuple[Hello | None, str]] = [
        (Hello(oldest_version=2, newest_version=3, nonce=bytes(16), host="h2"), "protocol 2 to 3"),
        (Hello(oldest_version=1, newest_version=1, nonce=bytes(16), role="source"), "as this side"),
        (Hello(oldest_version=1, newest_version=1, nonce=b""), "greeted as"),
        (None, "did not start with a greeting"),
    ]
    for hello, complaint in cases:
        link, peer, greeting = raw_peer(greet=False)
        message = Control(hello=hello) if hello else Control(call=Call(method="x"))
        data = message.SerializeToString()
        peer.send(frames.PREAMBLE, Header(Kind.CONTROL, len(data)).pack(), data)
        with pytest.raises(ProtocolError, match=complaint):
            greeting.join()
        link.close()
        peer.close()


def test_a_peer_that_says_nothing_is_given_up_in_the_time_given() -> None:
    left, right = channel_pair()
    with Link(left, "source") as link, pytest.raises(LinkError, match=r"no greeting within 0\.2 s"):
        link.handshake(timeout_seconds=0.2)
    right.close()


# The end.


def everything_that_waits(link: Link) -> list[Background]:
    """One thread in each call that can wait."""
    writer = link.open_stream("full")
    return [
        Background(link.receive),
        Background(lambda: link.call("never")),
        Background(lambda: link.accept_stream("never")),
        Background(write_for_ever, writer),
        Background(lambda: link.serve({})),
    ]


def reading_from(source: Link, destination: Link) -> Background:
    writer = destination.open_stream("open")
    writer.write(b"x")
    reader = source.accept_stream("open", timeout_seconds=5)
    assert bytes(reader.read(5) or b"") == b"x"
    return Background(reader.read)


@pytest.mark.parametrize("how", ["cut", "close"])
def test_whoever_waits_learns_at_once_that_the_link_is_gone(links: Links, how: str) -> None:
    source, destination = links
    waiting = [*everything_that_waits(source), reading_from(source, destination)]
    time.sleep(0.1)
    before = time.monotonic()
    if how == "cut":
        destination._channel.abort()
        destination._channel.close()
    else:
        destination.close()
    for number, waiter in enumerate(waiting):
        if how == "close" and number == 4:
            waiter.join()  # serve returns after a clean end
        else:
            with pytest.raises(LinkError):
                waiter.join()
    assert time.monotonic() - before < 2
    with pytest.raises(LinkError):
        source.send_event(1)


def test_what_came_before_the_goodbye_is_still_received(links: Links) -> None:
    source, destination = links
    with destination.open_stream("s") as writer:
        writer.write(b"last words")
    for number in range(3):
        destination.send(Control(call=Call(method=str(number))))
    destination.close()
    assert b"".join(source.accept_stream("s", timeout_seconds=5)) == b"last words"
    assert [source.receive(1).call.method for _ in range(3)] == ["0", "1", "2"]  # type: ignore[union-attr]
    with pytest.raises(LinkClosed, match="peer: closed the link"):
        source.receive(1)


def test_a_stream_open_at_the_goodbye_is_incomplete(links: Links) -> None:
    source, destination = links
    destination.open_stream("s").write(b"half")
    reader = source.accept_stream("s", timeout_seconds=5)
    destination.close()
    with pytest.raises(LinkError, match=r"given up by the writer|closed the link"):
        list(reader)


def test_a_living_peer_that_has_nothing_to_say_is_not_given_up() -> None:
    left, right = channel_pair()
    source = Link(left, "source", silence_seconds=0.4)
    destination = Link(right, "destination", silence_seconds=0.4)
    greeting = Background(destination.handshake)
    source.handshake()
    greeting.join()
    assert source.receive(1.0) is None, "heartbeats keep an idle link alive"
    closing = Background(destination.close)
    source.close()
    closing.join()


def test_closing_does_not_wait_longer_than_told_for_a_peer_that_ignores_it() -> None:
    link, peer, _ = raw_peer()
    before = time.monotonic()
    link.close(timeout_seconds=0.2)
    assert 0.1 < time.monotonic() - before < 2
    peer.close()


def test_a_peer_that_stops_is_noticed_in_the_time_given() -> None:
    left, right = channel_pair()
    source = Link(left, "source", silence_seconds=0.5)
    greeting = Background(source.handshake)
    hello = Hello(
        oldest_version=1,
        newest_version=1,
        nonce=bytes(16),
        role="destination",
        max_chunk_bytes=1 << 20,
        window_bytes=1 << 20,
    )
    data = Control(hello=hello).SerializeToString()
    right.send(frames.PREAMBLE, Header(Kind.CONTROL, len(data)).pack(), data)
    greeting.join()
    before = time.monotonic()
    with pytest.raises(LinkError, match=r"peer: silent for 0\.5 s"):
        source.receive()
    assert 0.4 < time.monotonic() - before < 2
    source.close()
    right.close()


def test_closing_twice_or_before_the_handshake_or_from_a_handler_is_fine() -> None:
    left, right = channel_pair()
    link = Link(left, "source")
    link.close()
    link.close()
    DescriptorChannel.close(right)
    right.close()


def test_no_descriptor_is_left_of_a_hundred_links() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(100):
        left, right = channel_pair()
        source, destination = Link(left, "source"), Link(right, "destination")
        greeting = Background(destination.handshake)
        source.handshake()
        greeting.join()
        closing = Background(destination.close)
        source.close()
        closing.join()
    assert count() == before
