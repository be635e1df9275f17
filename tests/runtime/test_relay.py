"""The foreground: a terminal carried over, signals passed on, an exit status."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.runtime import relay

PACKAGE_PARENT = str(Path(relay.__file__).parents[2])

# A process on a terminal of its own, as a container has one, and a relay before it.
PROGRAM = f"""
import os, sys
sys.path.append({PACKAGE_PARENT!r})
from migrate.runtime.relay import Relay
terminal = sys.argv[1] == "terminal"
with Relay(terminal=terminal) as relay:
    master, slave = os.openpty() if terminal else (-1, -1)
    pid = os.fork()
    if pid == 0:
        if terminal:
            os.setsid()
            os.login_tty(slave)
        os.execvp(sys.argv[2], sys.argv[2:])
    if terminal:
        os.close(slave)
        relay.take_console(master)
    status = relay.wait(pid)
os._exit(status)
"""


class Terminal:
    """A relay on a terminal of the test's own."""

    def __init__(self, *command: str, is_blocking: bool = True) -> None:
        self.pid, self.master = os.forkpty()
        if self.pid == 0:
            os.set_blocking(1, is_blocking)
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "terminal", *command])
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + 10
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, self.seen
            try:
                part = os.read(self.master, 65536)
            except OSError:
                part = b""
            assert part, self.seen
            self.seen += part

    def status(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*command: str, is_blocking: bool = True) -> Terminal:
        made.append(Terminal(*command, is_blocking=is_blocking))
        return made[-1]

    yield make
    for each in made:
        if each.pid:
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)
        os.close(each.master)


def test_what_is_typed_goes_in_and_what_is_written_comes_out(
    terminal: Callable[..., Terminal],
) -> None:
    screen = terminal("sh", "-c", "stty -echo; echo ready; read x; echo got $x; exit 5")
    screen.wait_for(b"ready\r\n")
    os.write(screen.master, b"hello\n")
    screen.wait_for(b"got hello\r\n")
    assert screen.status() == 5


def test_the_window_has_our_size_and_follows_it(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(
        "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
    )
    screen.wait_for(b"ready")
    screen.resize(31, 97)
    screen.wait_for(b"31 97")
    screen.resize(11, 22)
    screen.wait_for(b"11 22")


def test_control_c_is_a_byte_to_us_and_a_signal_inside(terminal: Callable[..., Terminal]) -> None:
    script = "trap 'echo INTERRUPTED; exit 3' INT; echo ready; sleep 100 & wait"
    screen = terminal("sh", "-c", script)
    screen.wait_for(b"ready")
    os.write(screen.master, b"\x03")
    screen.wait_for(b"INTERRUPTED")
    assert screen.status() == 3


def test_a_lot_comes_through_whole(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("sh", "-c", "seq 1 20000; echo the-end")
    screen.wait_for(b"the-end\r\n")
    assert screen.seen == b"".join(b"%d\r\n" % n for n in range(1, 20001)) + b"the-end\r\n"
    assert screen.status() == 0


def test_a_terminal_that_does_not_block_loses_nothing(terminal: Callable[..., Terminal]) -> None:
    """As a caller that shares it has made it."""
    script = "seq 1 20000; echo the-end; exit 4"
    screen = terminal("sh", "-c", script, is_blocking=False)
    time.sleep(0.3)  # nobody reads until it is full
    screen.wait_for(b"the-end\r\n")
    assert screen.seen == b"".join(b"%d\r\n" % n for n in range(1, 20001)) + b"the-end\r\n"
    assert screen.status() == 4


def test_a_terminal_that_is_hung_up_ends_neither_the_process_nor_the_wait(
    terminal: Callable[..., Terminal],
) -> None:
    script = "trap '' HUP; echo ready; sleep 0.5; echo unheard; sleep 0.2; exit 7"
    screen = terminal("sh", "-c", script)
    screen.wait_for(b"ready")
    os.close(screen.master)
    try:
        assert screen.status() == 7
    finally:
        screen.master = os.open(os.devnull, os.O_RDONLY)  # for the fixture to close


def test_our_terminal_is_as_it_was_afterwards() -> None:
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "terminal", "true"],
        stdin=slave, stdout=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("number", [int(each) for each in relay.PASSED_ON])
def test_signals_go_to_the_process(number: int) -> None:
    script = f"trap 'exit 9' {number}; echo ready; while :; do sleep 0.01; done"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "plain", "sh", "-c", script], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(10) == 9


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)]
)
def test_the_status_is_the_processs(script: str, status: int) -> None:
    command = [sys.executable, "-c", PROGRAM, "plain", "sh", "-c", script]
    assert subprocess.run(command, check=False).returncode == status


def test_a_terminal_is_refused_where_we_have_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "terminal", "true"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "cannot allocate tty: standard input is not a terminal" in done.stderr
