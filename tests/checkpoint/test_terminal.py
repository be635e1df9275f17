"""Terminals: a container's own, handed over again; and one of the host."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoint.conftest import Box, Maker, eventually
from tests.support.bundle import Config

pytestmark = pytest.mark.criu

TALKER = "i=0; while :; do i=$((i+1)); echo said=$i; echo said=$i > /status; sleep 0.02; done"


def with_terminal(config: Config) -> None:
    config["process"]["terminal"] = True


class Console:
    """A console socket, and the master that came over it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "console")
        self.master = -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        """Receive one descriptor."""
        try:
            end, _ = self._listener.accept()
        except OSError:
            return
        with end:
            _, ancillary, _, _ = end.recvmsg(256, socket.CMSG_SPACE(4))
            self.master = array.array("i", ancillary[0][2][:4])[0]

    def read(self) -> bytes:
        """Return what the terminal shows next."""
        self._thread.join(20)
        return os.read(self.master, 4096)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
def consoles(tmp_path: Path) -> Iterator[list[Console]]:
    made: list[Console] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(Console(tmp_path / name))
    yield made
    for each in made:
        each.close()


@pytest.fixture
def talker(box: Maker, consoles: list[Console]) -> Box:
    """A container that talks on its terminal, whose master is the first console's."""
    made = box("sh", "-c", TALKER, change=with_terminal)
    made.start("--console-socket", consoles[0].path)
    assert b"said=" in consoles[0].read()
    return made


def test_a_terminal_is_handed_over_again(talker: Box, consoles: list[Console]) -> None:
    talker.checkpoint()
    before = talker.number("said")
    talker.restore("--console-socket", consoles[1].path)
    first = consoles[1].read().split()[0]
    assert int(first.partition(b"=")[2]) >= before
    eventually(lambda: talker.number("said") > before + 3, "it talks on")


def test_a_restored_terminal_takes_input(box: Maker, consoles: list[Console]) -> None:
    reader = box(
        "sh", "-c", "while read line; do echo got=$line > /status; done", change=with_terminal
    )
    reader.start("--console-socket", consoles[0].path)
    eventually(lambda: consoles[0].master >= 0, "the master came")
    os.write(consoles[0].master, b"before\n")
    eventually(lambda: reader.words().get("got") == "before", "it reads")
    reader.checkpoint()
    reader.restore("--console-socket", consoles[1].path)
    eventually(lambda: consoles[1].master >= 0, "the master came again")
    os.write(consoles[1].master, b"after\n")
    eventually(lambda: reader.words().get("got") == "after", "it reads on")


def test_without_a_taker_it_is_refused_before_criu_is_asked(talker: Box) -> None:
    talker.checkpoint()
    assert talker.restore(check=False) == 1
    said = (talker.folder / "log").read_text()
    assert "the container has a terminal, and nobody takes it" in said
    assert not (talker.images / "restore.log").exists()


def test_a_terminal_of_the_host_becomes_that_of_the_restore(box: Maker) -> None:
    talker = box("sh", "-c", TALKER)
    masters = []
    for act in (talker.start, talker.restore):
        master, slave = os.openpty()
        masters.append(master)
        act(stdio=slave)
        os.close(slave)
        assert b"said=" in os.read(master, 4096)
        if act == talker.start:
            assert [each.kind for each in talker.facts().stdio] == ["terminal"]
            talker.checkpoint()
    talker.delete()
    for master in masters:
        os.close(master)
