"""What stands where `criu lazy-pages` would takes in every process, and never waits for ever."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from migrate.checkpoint.userfaults import SOCKET, Collector
from migrate.errors import CriuError

PATIENCE_SECONDS = 10.0
FINISHED = struct.pack("=I", 0x52535446)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work directory whose name is longer than that of a socket may be."""
    made = tmp_path / ("long" * 30)
    made.mkdir()
    return made


@pytest.fixture
def collector(work: Path) -> Iterator[Collector]:
    with Collector(str(work)) as made:
        yield made


class Criu:
    """Speaks as CRIU does, from its work directory."""

    def __init__(self, work: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        at = os.open(work, os.O_RDONLY)
        self.socket.connect(f"/proc/self/fd/{at}/{SOCKET}")
        os.close(at)

    def process(self, number: int) -> os.stat_result:
        """Send a process; what its descriptor is."""
        self.socket.send(struct.pack("=i", number))
        if number < 0:
            return os.stat_result([0] * 10)
        reading, writing = os.pipe()
        socket.send_fds(self.socket, [b"\0"], [reading])
        found = os.fstat(reading)
        os.close(reading)
        os.close(writing)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_processes_are_taken_in_and_zombies_are_not_waited_for(
    collector: Collector, work: Path
) -> None:
    with Criu(work) as criu:
        sent = {number: criu.process(number).st_ino for number in (1, 7, -8, 9)}
        assert collector.wait({1, 7, 8, 9}, PATIENCE_SECONDS)
        taken = {number: os.fstat(fd).st_ino for number, fd in collector.taken().items()}
        assert taken == {number: sent[number] for number in (1, 7, 9)}
        assert not any(map(os.get_inheritable, collector.taken().values()))
        assert not collector.is_finished
        criu.socket.send(FINISHED)
    with pytest.raises(CriuError, match="before it sent the memory of process 10"):
        collector.wait({1, 10}, PATIENCE_SECONDS)
    assert collector.is_finished


def test_criu_goes_on_when_its_userfaultfds_are_let_go_of(collector: Collector, work: Path) -> None:
    with Criu(work) as criu:
        criu.process(1)
        assert collector.wait({1}, PATIENCE_SECONDS)
        (descriptor,) = collector.taken().values()
        collector.let_go()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        criu.process(2)
        assert collector.wait({1, 2}, PATIENCE_SECONDS)
        assert list(collector.taken()) == [2]
        criu.socket.send(FINISHED)
    with pytest.raises(CriuError):
        collector.wait({3}, PATIENCE_SECONDS)
    assert collector.is_finished


def test_the_end_of_criu_ends_the_wait(collector: Collector, work: Path) -> None:
    with Criu(work) as criu:
        criu.process(1)
    with pytest.raises(CriuError, match="before it sent the memory of process 2"):
        collector.wait({1, 2}, PATIENCE_SECONDS)
    assert collector.wait({1}, PATIENCE_SECONDS)


def test_a_criu_that_never_comes_is_waited_for_no_longer_than_asked(collector: Collector) -> None:
    assert not collector.wait({1}, 0.01)


def test_what_is_no_descriptor_is_refused(collector: Collector, work: Path) -> None:
    with Criu(work) as criu:
        criu.socket.send(struct.pack("=i", 5))
        criu.socket.send(b"\0")
        with pytest.raises(CriuError, match="no userfaultfd for process 5"):
            collector.wait({5}, PATIENCE_SECONDS)
        assert criu.socket.recv(1) == b""


def test_a_process_that_comes_twice_is_refused(collector: Collector, work: Path) -> None:
    with Criu(work) as criu:
        criu.process(5)
        criu.process(5)
        with pytest.raises(CriuError, match="process 5 twice"):
            collector.wait({5, 6}, PATIENCE_SECONDS)


def test_closing_takes_the_socket_away_and_turns_away_who_waits(work: Path) -> None:
    collector = Collector(str(work))
    with Criu(work) as criu:
        criu.process(1)
        assert collector.wait({1}, PATIENCE_SECONDS)
        (descriptor,) = collector.taken().values()
        collector.close()
        assert criu.socket.recv(1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert not list(work.iterdir())
    collector.close()


def test_an_old_socket_is_replaced(work: Path) -> None:
    (work / SOCKET).touch()
    with Collector(str(work)) as collector, Criu(work) as criu:
        criu.process(1)
        assert collector.wait({1}, PATIENCE_SECONDS)


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(CriuError, match="no such file or directory"):
        Collector(str(tmp_path / "none"))
