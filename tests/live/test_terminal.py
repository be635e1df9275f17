"""A container's terminal follows it, and a person finds it on the other host."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.live.subject import BUNDLE, ID, Subject, subject
from tests.support.bundle import Config
from tests.support.hosts import Host, Site, wait_until
from tests.support.processes import Process

# Takes a terminal's master and never reads it.
HOLDER = """
import socket, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("/srv/console")
listener.listen(1)
end, _ = listener.accept()
kept = socket.recv_fds(end, 256, 1)
time.sleep(1000)
"""
DETACH = b"\x10\x11"


class Console:
    """What holds the master on the source, as an engine's monitor does."""

    def __init__(self, host: Host) -> None:
        self.master = -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(host.folder("/srv/console")))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        try:
            end, _ = self._listener.accept()
        except OSError:
            return
        with end:
            _, ancillary, _, _ = end.recvmsg(256, socket.CMSG_SPACE(4))
            self.master = array.array("i", ancillary[0][2][:4])[0]

    def wait_for(self, text: bytes) -> None:
        """Read until something is shown."""
        self._thread.join(10)
        until(self.master, text)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        if self.master >= 0:
            os.close(self.master)


def until(master: int, text: bytes) -> bytes:
    """Read a terminal until it shows something; return all it has shown."""
    shown = b""

    def found() -> bool:
        nonlocal shown
        os.set_blocking(master, False)
        try:
            shown += os.read(master, 4096)
        except OSError:
            return False
        return text in shown

    try:
        wait_until(found, f"{text!r} is shown", 20)
    except TimeoutError:
        raise AssertionError(f"{text!r} is not in {shown!r}") from None
    return shown


def with_terminal(config: Config) -> None:
    config["process"]["terminal"] = True


@pytest.fixture
def it(hosts: Site) -> Iterator[Subject]:
    """A container that the test makes as it needs it."""
    with subject(hosts) as made:
        yield made


@pytest.fixture
def console(it: Subject) -> Iterator[Console]:
    """The holder of a shell's terminal on host1."""
    it.make(["sh"], with_terminal)
    made = Console(it.host1)
    try:
        it.start("--console-socket", "/srv/console")
        made.wait_for(b"# ")
        yield made
    finally:
        made.close()


@contextmanager
def attached(host: Host, *, rows: int = 24) -> Iterator[tuple[int, Process]]:
    """Attach, on a terminal of the test's own; give that and the process."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, 80, 0, 0))
    command = ["migrate", "attach", ID]
    try:
        with host.popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            yield ours, process
    finally:
        os.close(ours)


def test_a_shell_is_found_where_it_was_left(it: Subject, console: Console) -> None:
    os.write(console.master, b"word=kept; stty -echo rows 33 cols 101; echo ready\n")
    console.wait_for(b"ready\r\n")
    done = it.live()
    assert "has a terminal" in done.stderr
    it.must_have_moved()
    # What nobody saw, because nobody was attached.
    it.exec(it.host2, "sh", "-c", "stty size </dev/pts/0 >/size; echo shown >/dev/pts/0")
    assert it.wait_for("size", it.host2) == "33 101\n"
    with attached(it.host2, rows=40) as (terminal, process):
        until(terminal, b"shown\r\n")
        os.write(terminal, b"echo $word $((20+3)); stty size\n")
        said = until(terminal, b"40 80\r\n")
        assert b"kept 23\r\n" in said
        assert b"echo" not in said, "the terminal forgot that it does not echo"
        os.write(terminal, DETACH)
        assert process.wait(10) == 0
        until(terminal, b"detached")
    assert it.status(it.host2) == "running"
    with attached(it.host2) as (terminal, process):
        os.write(terminal, b"echo again; exit 3\n")
        assert b"again\r\n" in until(terminal, b"the terminal is closed")
        assert process.wait(10) == 0
    wait_until(lambda: it.status(it.host2) == "stopped", "it ends")


def test_what_nobody_has_read_is_shown_on_the_other_host(it: Subject) -> None:
    it.make(["sh", "-c", "echo one; echo two; touch /ready; exec sleep 1000"], with_terminal)
    holder = it.host1.folder("/srv/holder.py")
    holder.write_text(HOLDER)
    with it.host1.popen([sys.executable, "/srv/holder.py"]):
        wait_until(it.host1.folder("/srv/console").exists, "it listens")
        it.start("--console-socket", "/srv/console")
        it.wait_until_ready()
        it.live()
    it.must_have_moved()
    with attached(it.host2) as (terminal, _):
        until(terminal, b"one\r\ntwo\r\n")


def test_it_comes_back_with_its_terminal(it: Subject, console: Console) -> None:
    it.live()
    it.must_have_moved()
    it.host2.run(["migrate", "live", ID, "--to", "host1"])
    assert it.status(it.host1) == "running"
    with attached(it.host1) as (terminal, process):
        os.write(terminal, b"echo $((6*7))\n")
        until(terminal, b"42\r\n")
        os.write(terminal, DETACH)
        assert process.wait(10) == 0
    assert console.master >= 0


def test_only_one_is_attached_at_a_time(it: Subject, console: Console) -> None:
    it.live()
    with attached(it.host2) as (terminal, _):
        os.write(terminal, b"echo $((4+8))\n")
        until(terminal, b"\r\n12\r\n")
        with attached(it.host2) as (other, second):
            until(other, b"somebody is attached")
            assert second.wait(10) == 1
        os.write(terminal, b"echo $((5+8))\n")
        until(terminal, b"\r\n13\r\n")
    assert console.master >= 0


def test_a_visitor_that_is_killed_gives_the_terminal_back(it: Subject, console: Console) -> None:
    it.live()
    with attached(it.host2) as (terminal, process):
        os.write(terminal, b"echo $((4+8))\n")
        until(terminal, b"\r\n12\r\n")
        process.kill()
    with attached(it.host2) as (terminal, _):
        os.write(terminal, b"echo $((6+8))\n")
        until(terminal, b"\r\n14\r\n")
    assert console.master >= 0


def test_after_a_failure_the_source_has_its_terminal_still(it: Subject, console: Console) -> None:
    done = it.host1.run(
        ["migrate", "live", ID, "--to", "host2"],
        check=False,
        env={"MIGRATE_FAULT": "source:after:SENT:raise"},
    )
    assert done.returncode != 0
    os.write(console.master, b"echo $((40+2))\n")
    console.wait_for(b"42\r\n")


def test_without_such_a_terminal_it_says_where_it_is(it: Subject, console: Console) -> None:
    with attached(it.host1) as (terminal, process):
        until(terminal, b"its terminal is held by who started it")
        assert process.wait(10) == 1
    done = it.host1.run(["migrate", "attach", ID], check=False)
    assert "attach needs a terminal" in done.stderr
    assert console.master >= 0


def test_who_ran_it_in_the_foreground_is_told_that_it_has_gone(it: Subject) -> None:
    it.make(["sh"], with_terminal)
    ours, theirs = os.openpty()
    command = ["migrate", "run", "--bundle", BUNDLE, ID]
    with it.host1.popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        until(ours, b"# ")
        it.live()
        assert process.wait(10) == 137
        until(ours, b"is not here any more: it was moved")
    os.close(ours)
    it.must_have_moved()
