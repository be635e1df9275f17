"""A command on another host over SSH, whichever program speaks it.

Lives here: how a target is written, the session interface, and what went wrong
with a remote command. Must not live here: paramiko (`paramiko_session`), the
ssh program (`openssh`); each is imported only when it is asked for.
`migrate.live` imports it.

    target = Target.parse("root@host2:2222")
    with connect(target) as session:
        link = Link(session.run(["migrate", "agent"]), "source")
"""

from __future__ import annotations

import collections
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from migrate.errors import TransportError, UsageError
from migrate.transport.channel import ByteChannel

Program = Literal["paramiko", "openssh"]

# Neither may start with a dash: both become arguments of ssh (CVE-2017-1000117),
# and both are put into other programs' configuration (CVE-2023-51385).
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\-]*")

_STDERR_LINES = 200
_STDERR_LINE_BYTES = 1000
_LAST_WORDS_SECONDS = 0.5

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Target:
    """Another host as the user names it; ~/.ssh/config may say more about it.

    Attributes:
        host: a name, an alias of ~/.ssh/config, or an address.
        user: None leaves it to ~/.ssh/config.
        port: None leaves it to ~/.ssh/config.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target written as `[user@]host[:port]`; IPv6 as `[::1]:22`.

        Raises:
            UsageError: it is not written so.
        """
        user, at, rest = text.rpartition("@")
        bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", rest)
        if bracketed:
            host, port = bracketed[1], bracketed[2]
        elif rest.count(":") > 1:
            host, port = rest, None
        else:
            host, colon, digits = rest.partition(":")
            port = digits if colon else None
        if not _HOST.fullmatch(host) or (at and not _USER.fullmatch(user)):
            raise UsageError(f"target {text!r}: is not written as [user@]host[:port]")
        if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise UsageError(f"target {text!r}: port {port!r} is not a number from 1 to 65535")
        return cls(host, user or None, int(port) if port is not None else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may say beyond ~/.ssh/config.

    Attributes:
        config_file: instead of ~/.ssh/config.
        known_hosts: the one known_hosts file to use.
        identity: a private key file to try before all others.
        timeout_seconds: for connecting and for each step of logging in; None
            leaves it to ConnectTimeout in ~/.ssh/config, else 10.
        control_path: of a `shared` connection to go through while it is there; the ssh
            program alone can.
    """

    config_file: str | None = None
    known_hosts: str | None = None
    identity: str | None = None
    timeout_seconds: float | None = None
    control_path: str | None = None


class Session(Protocol):
    """A login on another host."""

    peer: str

    def run(self, argv: Sequence[str]) -> ByteChannel:
        """Start a command there and return the channel to its stdin and stdout."""

    def close(self) -> None:
        """Log out; channels end. May be called twice."""

    def __enter__(self) -> Self:
        """Return the session, which leaving the block closes."""

    def __exit__(self, *_: object) -> None:
        """Close the session."""


def connect(
    target: Target, options: Options | None = None, *, transport: Program = "paramiko"
) -> Session:
    """Log in on `target`.

    The ssh program logs in when a command is run: its errors come then.

    Raises:
        HostKeyError: the host's key is unknown, changed or revoked.
        AuthenticationError: the host does not let the user in.
        TransportError: it cannot be reached, or speaks no common algorithm.
    """
    options = options or Options()
    if transport == "openssh":
        from migrate.transport.openssh import OpensshSession

        return OpensshSession(target, options)
    from migrate.transport.paramiko_session import connect as connect_by_paramiko

    return connect_by_paramiko(target, options)


def command_line(argv: Sequence[str]) -> str:
    """Return `argv` as one line for the login shell over there, every word quoted."""
    return shlex.join(argv)


class Helper:
    """A process that carries the connection: ssh, or a ProxyCommand; its group goes with it.

    Args:
        command: its arguments.
        sock: becomes its stdin and stdout, and is closed here.
    """

    def __init__(self, command: Sequence[str], sock: socket.socket) -> None:
        with sock:
            # A session of its own: Ctrl-C is for us to act on, not for it.
            self._process = subprocess.Popen(
                list(command),
                stdin=sock.fileno(),
                stdout=sock.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        pipe = self._process.stderr
        if pipe is None:
            raise AssertionError
        self._pipe = pipe
        self.stderr = StderrTail(lambda: os.read(pipe.fileno(), 64 * 1024))

    def wait(self, timeout_seconds: float) -> int | None:
        """Return its exit status, all it said being in `stderr`; None if it runs on."""
        try:
            status = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        self.stderr.finish(_LAST_WORDS_SECONDS)
        return status

    def last_words(self) -> str:
        """Return the last line it said, if it has ended."""
        lines = self.stderr.lines if self.wait(_LAST_WORDS_SECONDS) is not None else []
        return lines[-1] if lines else ""

    def end(self, patience_seconds: float) -> None:
        """Wait for its end for so long, then bring it about; nothing of it is left."""
        if self.wait(patience_seconds) is None or self.stderr.is_open:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it went meanwhile, and whatever it had started
            self._process.wait()
        self.stderr.finish(None)
        self._pipe.close()


class StderrTail:
    """Keeps the last of what a remote command says on stderr, and no more.

    Args:
        read: blocks for the next bytes, b"" at the end.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._lines: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        self._thread = threading.Thread(name="ssh-stderr", target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        rest = b""
        try:
            while data := self._read():
                *lines, rest = (rest + data).split(b"\n")
                self._lines.extend(_printable(line) for line in lines)
                rest = rest[:_STDERR_LINE_BYTES]
        except OSError:
            pass  # the connection went: what came before is what there is
        if rest:
            self._lines.append(_printable(rest))

    def finish(self, timeout_seconds: float | None) -> None:
        """Wait until stderr has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return self._thread.is_alive()

    @property
    def lines(self) -> list[str]:
        """What is kept, without empty lines."""
        return [line for line in tuple(self._lines) if line.strip()]


def _printable(line: bytes) -> str:
    text = line[:_STDERR_LINE_BYTES].decode(errors="replace").rstrip()
    return "".join(char if char.isprintable() else " " for char in text)


def explain_exit(
    peer: str, argv: Sequence[str], status: int | None, stderr: Sequence[str]
) -> TransportError | None:
    """Return why a remote command ended, or None where nothing is known of it.

    Args:
        peer: the host.
        argv: the command.
        status: its exit status, negative for a signal, None while unknown.
        stderr: the last lines it wrote there.
    """
    said = stderr[-1] if stderr else ""
    program = argv[0] if argv else "the command"
    if status == EXIT_NOT_FOUND:
        return TransportError(
            f"{peer}: {program}: command not found",
            f"Install migrate on {peer} so that `ssh {peer} {program} --version` works.",
        )
    if status == EXIT_NOT_EXECUTABLE:
        return TransportError(
            f"{peer}: {program}: cannot be executed{_after_colon(said)}",
            f"Make `ssh {peer} {program} --version` work.",
        )
    if status is None and not said:
        return None
    if status is None or status == 0:
        return TransportError(f"{peer}: {program} ended{_after_colon(said)}")
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return TransportError(f"{peer}: {program} {how}{_after_colon(said)}")


def _after_colon(text: str) -> str:
    return f": {text}" if text else ""
