"""Terminals: made in the container, handed to whoever was named, without a leak."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.conftest import Config, Failed, Runner

pytestmark = pytest.mark.root


class Taker:
    """A console socket that takes one master, as a monitor does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.master = -1
        self.name = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            self.name, fds, _, _ = socket.recv_fds(connection, 256, 1)
            if fds:
                self.master = fds[0]

    def read_until(self, end: bytes) -> str:
        """What the terminal shows, up to and with an end."""
        self._thread.join(10)
        seen = b""
        while end not in seen:
            assert select.select([self.master], [], [], 10)[0], seen
            seen += os.read(self.master, 4096)
        return seen.decode().replace("\r\n", "\n")

    def close(self) -> None:
        """Take no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
def taker(tmp_path: Path) -> Iterator[Taker]:
    """A console socket."""
    made = Taker(tmp_path / "console.sock")
    try:
        yield made
    finally:
        made.close()


def with_terminal(config: Config) -> None:
    """A terminal of 33 lines and 111 columns."""
    config["process"]["terminal"] = True
    config["process"]["consoleSize"] = {"height": 33, "width": 111}


def test_the_payload_has_a_controlling_terminal_of_its_own(runner: Runner, taker: Taker) -> None:
    script = """
        tty; stty size; echo hello >/dev/tty; ls -l /proc/$$/fd | grep -c pts
        stat -c %t:%T /dev/console; echo to-console >/dev/console; read line; echo got $line
    """
    runner.bundle("sh", "-c", script, change=with_terminal)
    record = runner.create(console_socket=taker.path)
    assert record["stdio"] == ["/dev/pts/0"] * 3
    assert record["terminal"] is True
    runner.start(record, wait=False)
    assert taker.read_until(b"to-console\r\n").split() == [
        "/dev/pts/0",
        "33",
        "111",
        "hello",
        "3",
        "88:0",
        "to-console",
    ]
    assert taker.name == b"/dev/pts/0"
    os.write(taker.master, b"typed\n")
    assert "got typed" in taker.read_until(b"got typed\r\n")


def test_a_user_without_privileges_may_open_its_terminal_again(
    runner: Runner, taker: Taker
) -> None:
    def change(config: Config) -> None:
        with_terminal(config)
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    runner.bundle("sh", "-c", "echo again >/dev/pts/0; stat -c %u /dev/pts/0", change=change)
    runner.start(runner.create(console_socket=taker.path))
    assert taker.read_until(b"1000\r\n").split() == ["again", "1000"]


def test_a_console_socket_without_a_terminal_is_refused(runner: Runner, taker: Taker) -> None:
    with pytest.raises(Failed, match="cannot use console socket"):
        runner.create(console_socket=taker.path)


def test_a_console_socket_nobody_listens_on_is_named(runner: Runner, tmp_path: Path) -> None:
    runner.bundle(change=with_terminal)
    with pytest.raises(Failed, match=r"nosuch\.sock: no such file"):
        runner.create(console_socket=str(tmp_path / "nosuch.sock"))


def test_without_a_devpts_a_terminal_says_what_is_missing(runner: Runner, taker: Taker) -> None:
    def change(config: Config) -> None:
        with_terminal(config)
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/dev/pts"]

    runner.bundle(change=change)
    with pytest.raises(Failed, match=r"no terminals of its own|not a devpts") as caught:
        runner.create(console_socket=taker.path)
    assert "devpts" in caught.value.reply["hint"]


def test_a_device_in_place_of_the_terminals_is_not_opened(runner: Runner, taker: Taker) -> None:
    """CVE-2025-52565: what /dev/pts is decides which device is opened and mounted."""

    def change(config: Config) -> None:
        with_terminal(config)
        for mount in config["mounts"]:
            if mount["destination"] == "/dev/pts":
                mount.update(type="tmpfs", source="tmpfs", options=["nosuid"])

    runner.bundle(change=change)
    with pytest.raises(Failed, match="not a devpts"):
        runner.create(console_socket=taker.path)
