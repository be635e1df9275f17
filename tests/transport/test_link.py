"""Two ends of a link in one process: messages and streams."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import ContainerExists, LinkError, PeerError, ProtocolError
from migrate.transport import frames
from migrate.transport import link as link_module
from migrate.transport.channel import channel_pair
from migrate.transport.control_pb2 import Call, Control
from migrate.transport.frames import Header, Kind
from migrate.transport.link import Link
from tests.transport.peers import Background, Links, raw_peer, write_for_ever

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


def test_what_a_peer_says_never_reaches_a_terminal_as_commands(links: Links) -> None:
    source, destination = links

    def lie(_: object) -> None:
        message = "\x1b]0;owned\x07first\nsecond\r\u202e" + "x" * 100_000
        raise ContainerExists(message)

    serving = Background(destination.serve, {"lie": lie})
    with pytest.raises(PeerError) as raised:
        source.call("lie", None, 5)
    assert str(raised.value).isprintable()
    assert raised.value.hint.isprintable()
    assert len(str(raised.value)) < 5000
    source.close()
    serving.join()


def test_an_answer_that_cannot_be_sent_is_an_error_for_the_caller(links: Links) -> None:
    source, destination = links
    methods = {
        "set": lambda _: {1, 2},
        "large": lambda _: "x" * frames.MAX_CONTROL_BYTES,
        "exit": lambda _: sys.exit(3),
    }
    serving = Background(destination.serve, methods)
    for method, complaint in {
        "set": "TypeError: Object of type set",
        "large": "where 8388608 are the most",
        "exit": "SystemExit: 3",
    }.items():
        with pytest.raises(PeerError, match=complaint):
            source.call(method, None, 5)
    source.close()
    serving.join()


def test_an_event_handler_that_raises_harms_nobody(links: Links) -> None:
    source, destination = links
    serving = Background(destination.serve, {"add": sum})
    source.on_event(lambda _: 1 / 0)
    for number in range(3):
        destination.send_event(number)
    assert source.call("add", [1, 1], 5) == 2
    source.close()
    serving.join()


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
        with pytest.raises(LinkError, match="more messages than are received"):
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


def test_complete_streams_that_nobody_accepts_do_not_fill_the_memory(links: Links) -> None:
    source, destination = links

    def open_and_complete() -> None:
        while True:
            source.open_stream("unwanted").close()

    with pytest.raises(LinkError):
        open_and_complete()
    with pytest.raises(LinkError, match="more than 32 streams"):
        destination.receive(5)


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
