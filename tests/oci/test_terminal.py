"""Terminals: the console socket, and the foreground with a real one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
import tty
from collections.abc import Iterator

import pytest

from .driver import Bundle, Config, Runtime, eventually, killed_at_end
from .sockets import DescriptorSocket

# Carries out what is typed, without the escape sequences of an interactive shell.
OBEDIENT = 'trap : INT; echo up; while read -r line; do eval "$line"; done'

# What it says before our own terminal is surely raw may get a carriage return more.
UP = "up\r"


def with_terminal(config: Config) -> None:
    config["process"]["terminal"] = True


class Terminal:
    """The master of a pseudo-terminal, read by deadline."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.seen = ""

    def read_until(self, text: str, within: float = 10.0) -> str:
        """Everything read so far, as soon as `text` is in it."""
        deadline = time.monotonic() + within
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} never came; seen so far: {self.seen!r}"
            try:
                data = os.read(self.master, 4096)
            except OSError:  # EIO: the last slave is closed
                data = b""
            assert data, f"the terminal ended before {text!r}; seen so far: {self.seen!r}"
            self.seen += data.decode()
        return self.seen

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class ConsoleSocket(DescriptorSocket):
    """Receives a terminal's master, as an engine's monitor does."""

    def terminal(self) -> Terminal:
        return Terminal(self.receive())


@pytest.fixture
def console() -> Iterator[ConsoleSocket]:
    with ConsoleSocket() as console:
        yield console


@contextlib.contextmanager
def foreground(
    runtime: Runtime, *arguments: str
) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """Run a command with a terminal of 24 by 80 as its standard streams, leading its session."""
    master, slave = pty.openpty()
    terminal = Terminal(master)
    terminal.resize(24, 80)
    try:
        process = subprocess.Popen(
            ["setsid", "--ctty", *runtime.argv(*arguments)],
            stdin=slave, stdout=slave, stderr=slave,
            cwd=runtime.workspace, env={**runtime.environment, "TERM": "xterm"},
        )  # fmt: skip
        with killed_at_end(process):
            os.close(slave)
            yield process, terminal
    finally:
        os.close(master)


@pytest.fixture
def bundle(runtime: Runtime) -> Bundle:
    return runtime.bundle("sh", "-c", OBEDIENT, change=with_terminal)


def test_the_console_socket_receives_the_master(
    runtime: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    container = runtime.create(bundle, "--console-socket", str(console.path))
    terminal = console.terminal()
    terminal.resize(20, 70)
    container("start")
    terminal.type("echo 1+$((1+1)); tty; stty size\n")
    seen = terminal.read_until("20 70")
    assert "1+2\r\n" in seen
    assert "/dev/" in seen
    assert console.name.startswith("/dev/p")
    terminal.type("exit 0\n")
    container.wait_until("stopped")


def test_the_terminal_is_the_containers_dev_console(
    runtime: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    container = runtime.create(bundle, "--console-socket", str(console.path))
    terminal = console.terminal()
    container("start")
    terminal.type("echo through > /dev/console; ls -l /proc/self/fd/0 /dev/pts\n")
    seen = terminal.read_until("/dev/pts/0")
    assert "through\r\n" in seen


def test_the_process_has_the_terminal_as_its_controlling_one(
    runtime: Runtime, bundle: Bundle, console: ConsoleSocket
) -> None:
    container = runtime.create(bundle, "--console-socket", str(console.path))
    terminal = console.terminal()
    container("start")
    terminal.type("echo over > /dev/tty; sleep 77; echo $?-$((40+2))\n")
    eventually(lambda: len(container.pids()) == 2, "sleep runs")
    terminal.type("\x03")
    seen = terminal.read_until("-42\r\n")
    assert "over\r\n" in seen
    assert "130-42" in seen


def test_the_size_of_the_config_is_the_terminals(runtime: Runtime, console: ConsoleSocket) -> None:
    def change(config: Config) -> None:
        with_terminal(config)
        config["process"]["consoleSize"] = {"height": 33, "width": 111}

    bundle = runtime.bundle("stty", "size", change=change)
    container = runtime.create(bundle, "--console-socket", str(console.path))
    terminal = console.terminal()
    container("start")
    assert "33 111" in terminal.read_until("33 111")


def test_exec_sends_a_terminal_of_its_own(runtime: Runtime, console: ConsoleSocket) -> None:
    container = runtime.started()
    pid_file = runtime.workspace / "pid"
    runtime.ok(
        "exec", "--tty", "--detach", "--console-socket", str(console.path),
        "--pid-file", str(pid_file), container.id, "sh", "-c", OBEDIENT,
        output=runtime.workspace / "exec-output",
    )  # fmt: skip
    terminal = console.terminal()
    terminal.type("echo in-$((20+3)); tty\n")
    assert "in-23" in terminal.read_until("/dev/pts/0")
    terminal.type("exit 6\n")
    _, status = os.waitpid(int(pid_file.read_text()), 0)
    assert os.waitstatus_to_exitcode(status) == 6


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_console_socket_without_a_terminal_is_refused(
    runtime: Runtime, console: ConsoleSocket, verb: str
) -> None:
    bundle = runtime.bundle("true")
    options = ["--detach"] if verb == "run" else []
    runtime.refuses(
        verb, *options, "--bundle", str(bundle.path), "--console-socket", str(console.path),
        runtime.new_id(),
    )  # fmt: skip
    assert runtime.ids() == []


@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_exec_refuses_a_console_socket_without_a_terminal(
    runtime: Runtime, options: tuple[str, ...]
) -> None:
    container = runtime.started()
    error = runtime.refuses("exec", *options, "--console-socket", "/nosuch", container.id, "true")
    assert "cannot use console socket if" in error


def test_a_terminal_without_a_console_socket_is_refused_when_detached(
    runtime: Runtime, bundle: Bundle
) -> None:
    for verb in (["create"], ["run", "--detach"]):
        runtime.refuses(*verb, "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []


def test_a_console_socket_that_nobody_serves_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    missing = str(runtime.workspace / "none.sock")
    runtime.refuses(
        "create", "--bundle", str(bundle.path), "--console-socket", missing, runtime.new_id()
    )
    assert runtime.ids() == []


def test_run_in_the_foreground_relays_the_terminal_both_ways(
    runtime: Runtime, bundle: Bundle
) -> None:
    arguments = ["run", "--bundle", str(bundle.path), runtime.new_id()]
    with foreground(runtime, *arguments) as (process, terminal):
        terminal.read_until(UP)
        terminal.type("echo 1+$((1+1)); stty size; tty\n")
        seen = terminal.read_until("/dev/pts/0")
        assert "1+2\r\n" in seen
        assert "24 80\r\n" in seen
        terminal.type("exit 5\n")
        assert process.wait(10) == 5


def test_the_size_of_the_callers_terminal_is_followed(runtime: Runtime) -> None:
    # The first size may come late and be a signal too.
    trap = 's=$(stty size); echo $s; [ "$s" != "41 123" ] || exit 4'
    script = f"trap '{trap}' WINCH; echo up; while :; do sleep 0.02; done"
    bundle = runtime.bundle("sh", "-c", script, change=with_terminal)
    arguments = ["run", "--bundle", str(bundle.path), runtime.new_id()]
    with foreground(runtime, *arguments) as (process, terminal):
        terminal.read_until(UP)
        terminal.resize(41, 123)
        terminal.read_until("41 123")
        assert process.wait(10) == 4


def test_control_c_reaches_the_container_and_not_the_runtime(
    runtime: Runtime, bundle: Bundle
) -> None:
    name = runtime.new_id()
    with foreground(runtime, "run", "--bundle", str(bundle.path), name) as (process, terminal):
        terminal.read_until(UP)
        terminal.type("sleep 66; echo $?-$((40+2))\n")
        eventually(lambda: "sleep 66" in runtime.ok("ps", name).out, "sleep runs")
        terminal.type("\x03")
        assert "130-42" in terminal.read_until("-42\r\n")
        terminal.type("exit 0\n")
        assert process.wait(10) == 0


def test_the_callers_terminal_is_as_before_afterwards(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "echo up; sleep 0.1", change=with_terminal)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        ["setsid", "--ctty", *runtime.argv("run", "--bundle", str(bundle.path), runtime.new_id())],
        stdin=slave, stdout=slave, stderr=slave, cwd=runtime.workspace, env=runtime.environment,
    )  # fmt: skip
    with killed_at_end(process):
        Terminal(master).read_until("up")
        assert not termios.tcgetattr(slave)[tty.LFLAG] & termios.ECHO
        assert process.wait(10) == 0
    after = termios.tcgetattr(slave)
    os.close(slave)
    os.close(master)
    assert after == before


def test_exec_with_a_terminal_in_the_foreground(runtime: Runtime) -> None:
    container = runtime.started()
    arguments = ["exec", "-t", container.id, "sh", "-c", OBEDIENT]
    with foreground(runtime, *arguments) as (process, terminal):
        terminal.read_until(UP)
        terminal.type("tty; stty size\n")
        assert "/dev/pts/0" in terminal.read_until("24 80")
        terminal.type("exit 9\n")
        assert process.wait(10) == 9


def test_a_foreground_terminal_passes_a_lot_through(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "seq 20000; echo the-end", change=with_terminal)
    arguments = ["run", "--bundle", str(bundle.path), runtime.new_id()]
    with foreground(runtime, *arguments) as (process, terminal):
        seen = terminal.read_until("the-end\r\n")
        assert seen.split()[:20000] == [str(n) for n in range(1, 20001)]
        assert process.wait(10) == 0


def test_a_terminal_wanted_where_there_is_none_is_refused(runtime: Runtime, bundle: Bundle) -> None:
    # The caller's streams are files: there is no terminal to relay to.
    runtime.refuses("run", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []
