"""Every way in which a link ends: a peer out of line, a goodbye, silence."""

from __future__ import annotations

import os
import time

import pytest

from migrate.errors import LinkClosed, LinkError, ProtocolError
from migrate.transport import frames
from migrate.transport.channel import channel_pair
from migrate.transport.control_pb2 import Call, Control, Hello
from migrate.transport.frames import Header, Kind
from migrate.transport.link import Link
from tests.transport.peers import Background, Links, raw_peer, write_for_ever

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
            "more than 32 streams",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_frame_that_the_protocol_forbids_ends_the_link(wire: bytes, complaint: str) -> None:
    link, peer, _ = raw_peer()
    waiting = Background(link.receive)
    sending = Background(peer.send, wire)
    with pytest.raises(LinkError, match=complaint):
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
        (
            Hello(
                oldest_version=2,
                newest_version=3,
                nonce=bytes(16),
                host="h2",
                max_chunk_bytes=1 << 20,
                window_bytes=1 << 20,
            ),
            "protocol 2 to 3",
        ),
        (Hello(oldest_version=1, newest_version=1, nonce=bytes(16), role="source"), "as this side"),
        (Hello(oldest_version=1, newest_version=1, nonce=b""), "greeted as"),
        (
            Hello(oldest_version=1, newest_version=1, nonce=bytes(16), max_chunk_bytes=1 << 20),
            "window too small",
        ),
        (
            Hello(oldest_version=1, newest_version=1, nonce=bytes(16), window_bytes=1 << 20),
            "window too small",
        ),
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


def test_closing_twice_or_before_the_handshake_is_fine() -> None:
    left, right = channel_pair()
    link = Link(left, "source")
    link.close()
    link.close()
    right.close()
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
