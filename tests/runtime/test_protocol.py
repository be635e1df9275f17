"""The conversation of the parent with its stages: only in turn, only from the right side."""

from __future__ import annotations

import _socket
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import ConfigError, StageError
from migrate.runtime.protocol import FROM_PARENT, NEXT, Channel, ChannelEnded, fields, split


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The parent's end and a stage's."""
    parent, bare = Channel.pair()
    stage = Channel.adopt(bare.detach())
    yield parent, stage
    parent.close()
    stage.close()


def test_every_message_is_reached_and_leads_on_or_ends() -> None:
    reached = {message for following in NEXT.values() for message in following}
    assert reached == set(NEXT) - {""}
    assert reached > FROM_PARENT
    assert [message for message, following in NEXT.items() if not following] == ["ERROR"]


def test_a_whole_conversation(ends: tuple[Channel, Channel]) -> None:
    parent, stage = ends
    parent.send("PLAN", b"x" * 100_000)
    assert stage.receive() == ("PLAN", b"x" * 100_000, [])
    stage.send("CHILD")
    assert parent.receive()[0] == "CHILD"
    assert parent.sender_pid == os.getpid()
    parent.send("GO")
    stage.expect("GO")
    stage.send("SOURCE", fields("/a b", "", ""))
    _, body, _ = parent.receive()
    assert split(body, 3) == ["/a b", "", ""]
    fd = os.open("/", os.O_RDONLY)
    parent.send("TREE", fds=(fd,))
    _, fds = stage.expect("TREE")
    assert os.path.sameopenfile(fd, fds[0])
    assert not os.get_inheritable(fds[0])
    for each in (fd, *fds):
        os.close(each)


def test_nothing_is_said_out_of_turn(ends: tuple[Channel, Channel]) -> None:
    parent, stage = ends
    with pytest.raises(StageError, match="'GO' cannot follow ''"):
        parent.send("GO")
    with pytest.raises(StageError, match="'PLAN' cannot follow"):
        stage.send("PLAN")  # the parent's to say
    parent.send("PLAN")
    stage.expect("PLAN")
    with pytest.raises(StageError, match="'READY' cannot follow 'PLAN'"):
        stage.send("READY")


def test_an_error_may_come_at_any_time_and_carries_its_hint(
    ends: tuple[Channel, Channel],
) -> None:
    parent, stage = ends
    parent.send("PLAN")
    stage.expect("PLAN")
    stage.report(ConfigError("$.x", "is wrong", "Right it."))
    message, body, _ = parent.receive()
    assert (message, split(body, 2)) == ("ERROR", ["$.x: is wrong", "Right it."])


def test_the_end_of_the_other_side_is_told_from_an_error(ends: tuple[Channel, Channel]) -> None:
    parent, stage = ends
    stage.close()
    with pytest.raises(ChannelEnded):
        parent.receive()
    with pytest.raises(ChannelEnded):
        parent.send("PLAN")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_whatever_a_stage_sends_is_a_message_or_an_error(data: bytes) -> None:
    parent, bare = Channel.pair()
    try:
        parent.send("PLAN")
        bare.sendall(data)
        bare.shutdown(_socket.SHUT_WR)
        with pytest.raises(StageError):
            _hear_out(parent)
    finally:
        parent.close()
        bare.close()


def _hear_out(parent: Channel) -> None:
    while parent.receive()[0] in NEXT:
        pass


def test_a_length_that_cannot_be_is_not_waited_for() -> None:
    parent, bare = Channel.pair()
    parent.send("PLAN")
    bare.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(StageError, match="is no message"):
        parent.receive()
    parent.close()
    bare.close()
