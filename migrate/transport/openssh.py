"""A session by the ssh program, behind the interface of paramiko's.

Lives here: the arguments of ssh, its process, and what its words mean. Must not
live here: anything that decides how a host is reached; ssh does. What it has
over paramiko: host certificates, security keys, GSSAPI, and speed, because it
ciphers in a process of its own. `migrate.transport.ssh` imports it.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable, Sequence
from typing import Self

from migrate.errors import AuthenticationError, HostKeyError, TransportError
from migrate.transport.channel import socket_channel
from migrate.transport.ssh import Helper, Options, Target, command_line, explain_exit
from migrate.transport.sshconfig import ssh_arguments

# ssh asks nothing and adds nothing; the link has its own compression and its
# own heartbeats; a user's multiplexed or forwarded connection is not used, only one
# that is named. ssh takes the first value it is told of each.
_SETTINGS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "NoHostAuthenticationForLocalhost=no",
    "Compression=no",
    "ServerAliveInterval=0",
    "ControlMaster=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "EscapeChar=none",
    "LogLevel=ERROR",
    "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
)
_OWN_FAILURE = 255
_EXIT_WAIT_SECONDS = 2.0
_END_SECONDS = 0.5


def arguments(target: Target, options: Options, *, settings: Sequence[str] = ()) -> list[str]:
    """Return ssh with its options, up to the host's name.

    Args:
        settings: as of ssh_config(5), before this module's own.
    """
    chosen = [*settings, *_SETTINGS, f"ControlPath={options.control_path or 'none'}"]
    if options.timeout_seconds is not None:
        chosen.append(f"ConnectTimeout={max(1, round(options.timeout_seconds))}")
    command = ["ssh", *ssh_arguments(target, options)]
    for setting in chosen:
        command += ["-o", setting]
    return command


def no_program() -> TransportError:
    """Return the error where there is no ssh."""
    return TransportError(
        "ssh: command not found", "Install openssh-client, or use --transport paramiko."
    )


class OpensshSession:
    """Runs ssh once for each command; see `ssh.Session`."""

    def __init__(self, target: Target, options: Options) -> None:
        self.peer = target.host
        self._target = target
        self._options = options
        self._channels: list[OpensshChannel] = []

    def run(self, argv: Sequence[str]) -> OpensshChannel:
        """See `ssh.Session.run`."""
        command = [*arguments(self._target, self._options), "--", self._target.host]
        command.append(command_line(argv))
        channel = OpensshChannel(command, self._target, argv)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        """See `ssh.Session.close`."""
        for channel in self._channels:
            channel.close()
        self._channels = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OpensshChannel:
    """The stdin and stdout of an ssh process; see `channel.ByteChannel`."""

    def __init__(self, command: Sequence[str], target: Target, argv: Sequence[str]) -> None:
        self.peer = target.host
        self._target = target
        self._argv = argv
        self._closed = False
        ours, theirs = socket.socketpair()
        try:
            self._ssh = Helper(command, theirs)
        except FileNotFoundError as error:
            ours.close()
            raise no_program() from error
        self._bytes = socket_channel(ours, target.host)

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        """See `ByteChannel.send`."""
        self._bytes.send(*buffers)

    def recv_into(self, view: memoryview) -> int:
        """See `ByteChannel.recv_into`."""
        return self._bytes.recv_into(view)

    def abort(self) -> None:
        """See `ByteChannel.abort`."""
        self._bytes.abort()

    def close(self) -> None:
        """See `ByteChannel.close`: ssh is gone afterwards."""
        self._bytes.close()  # end of file: ssh ends by itself where it can
        if not self._closed:
            self._closed = True
            self._ssh.end(_END_SECONDS)

    def explain(self) -> TransportError | None:
        """See `ByteChannel.explain`."""
        status = self._ssh.wait(_EXIT_WAIT_SECONDS)
        if status is None:
            return None
        lines = self._ssh.stderr.lines
        if status != _OWN_FAILURE:
            return explain_exit(self.peer, self._argv, status, lines)
        # Without a word: a signal ended the command over there.
        return explain_failure(self._target, lines) if lines else None


def explain_failure(target: Target, lines: Sequence[str]) -> TransportError:
    """Return the error that ssh's own words, on exit status 255, stand for."""
    text = "\n".join(lines)
    for pattern, make in _FAILURES:
        if match := re.search(pattern, text, re.IGNORECASE):
            return make(target, match)
    # A proxy's own words come before ssh's.
    return TransportError(f"{target.host}: {'; '.join(lines[-2:])}")


_Make = Callable[[Target, re.Match[str]], TransportError]


def _changed(target: Target, match: re.Match[str]) -> TransportError:
    key, where = match["key"], match["where"]
    return HostKeyError(
        f"{target.host}: HOST KEY HAS CHANGED: it shows {key}, {where} knows another; "
        "somebody may be between the two hosts",
        "Ask who runs that host; only if its key was changed on purpose, remove the old one: "
        f"ssh-keygen -f {shlex.quote(where.rpartition(':')[0])} -R {shlex.quote(_name(target))}",
    )


def _unknown(target: Target, match: re.Match[str]) -> TransportError:
    kind = match["kind"].lower()
    port = f"-p {target.port} " if target.port else ""
    scan = f"ssh-keyscan {port}-t {kind} {shlex.quote(target.host)}"
    return HostKeyError(
        f"{target.host}: unknown host key, {match['kind']}",
        f"Compare what `{scan} | ssh-keygen -lf -` prints with that host's own key; "
        f"if they are the same, add it: {scan} >> ~/.ssh/known_hosts",
    )


def _name(target: Target) -> str:
    return f"[{target.host}]:{target.port}" if target.port else target.host


def _simple(kind: type[TransportError], message: str, hint: str) -> _Make:
    def make(target: Target, match: re.Match[str]) -> TransportError:
        who = f"{target.user}@{target.host}" if target.user else target.host
        return kind(f"{who}: {message.format(*match.groups())}", hint)

    return make


_FAILURES: tuple[tuple[str, _Make], ...] = (
    (
        r"(?s)HAS CHANGED.*?(?P<key>SHA256:\S+?)\.?\n.*?Offending \S+ key in (?P<where>\S+)",
        _changed,
    ),
    (r"(?s)REVOKED HOST KEY", _simple(HostKeyError, "HOST KEY IS REVOKED", "")),
    (r"No (?P<kind>\S+) host key is known for", _unknown),
    (
        r"Host key verification failed",
        _simple(HostKeyError, "host key verification failed", "Check ~/.ssh/known_hosts."),
    ),
    (
        r"Permission denied \((.*)\)|Too many authentication failures()",
        _simple(
            AuthenticationError,
            "permission denied ({0})",
            "Add a public key to ~/.ssh/authorized_keys of that user.",
        ),
    ),
    (
        r"Could not resolve hostname",
        _simple(
            TransportError,
            "name cannot be resolved",
            "Check the spelling, or give the host a HostName in ~/.ssh/config.",
        ),
    ),
    (
        r"Connection refused",
        _simple(
            TransportError,
            "connection refused",
            "Start sshd there, or give its port as host:port.",
        ),
    ),
    (
        r"timed out",
        _simple(
            TransportError,
            "no answer in time",
            "Check that the host is up and that no firewall drops the port.",
        ),
    ),
)
