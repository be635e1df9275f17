"""A session by paramiko: connecting, checking the host, one channel.

Lives here: every use of paramiko but the login's. Must not live here: reading
configuration or known_hosts files. `migrate.transport.ssh` imports it when it
is asked for, because importing paramiko takes a tenth of a second.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import paramiko
from paramiko.ssh_exception import SSHException

from migrate.errors import HostKeyError, TransportError
from migrate.transport.channel import ChannelEnded
from migrate.transport.hostkeys import HostKey, KnownHosts
from migrate.transport.paramiko_login import log_in, one_line
from migrate.transport.ssh import Helper, Options, StderrTail, Target, command_line, explain_exit
from migrate.transport.sshconfig import HostConfig, resolve

# The fastest first: GCM needs no separate MAC, which costs more than the cipher.
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
    "aes192-ctr",
)

# What the server may send us before we read it. What we may send is the
# server's choice: OpenSSH takes 2 MiB, in packets of 32 KiB.
_WINDOW_BYTES = 16 * 1024 * 1024
_PACKET_BYTES = 256 * 1024

# paramiko changes keys every 512 MiB, and stops sending while it does. The
# limits that count for AES, as OpenSSH keeps them: 2^32 blocks (RFC 4344,
# section 3.2), and a packet count well below the 2^32 of its sequence number.
_REKEY_BYTES = 1 << 36
_REKEY_PACKETS = 1 << 30

# Unsent bytes the kernel may hold: a control message waits behind no more.
_UNSENT_BYTES = 1024 * 1024
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; missing in Python's socket

_MOST_JUMPS = 8
_EXIT_WAIT_SECONDS = 2.0
_JOIN_SECONDS = 5.0

# What paramiko logs of a failure also reaches us as an exception; without a
# handler of its own Python would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(target: Target, options: Options) -> ParamikoSession:
    """Log in on `target`, through the hosts its ProxyJump names.

    Raises:
        HostKeyError: the key of the host, or of one on the way, is not the known one.
        AuthenticationError: it does not let the user in.
        TransportError: it cannot be reached.
    """
    session = ParamikoSession(target.host)
    try:
        session.open(resolve(target, options), options)
    except BaseException:
        session.close()
        raise
    return session


class ParamikoSession:
    """A login, and the logins on the hosts it goes through; see `ssh.Session`."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._transports: list[paramiko.Transport] = []
        self._channels: list[ParamikoChannel] = []
        self._proxies: list[Helper] = []

    def open(self, config: HostConfig, options: Options, depth: int = 0) -> None:
        """Log in; the transport of the last host is the session's."""
        if depth > _MOST_JUMPS:
            raise TransportError(f"{self.peer}: more than {_MOST_JUMPS} hosts to jump through")
        # A file given for the target is not the way into the hosts before it.
        on_the_way = replace(options, identity=None)
        for hop in config.proxy_jump:
            self.open(replace(resolve(hop, on_the_way), proxy_jump=()), on_the_way, depth + 1)
        sock = self._reach(config)
        try:
            transport = _start(sock, config)
        except BaseException as error:
            sock.close()
            said = self._proxies[-1].last_words() if config.proxy_command else ""
            if said and type(error) is TransportError:
                raise TransportError(f"{error.message}; its ProxyCommand said: {said}") from error
            raise
        self._transports.append(transport)
        log_in(transport, config)

    def _reach(self, config: HostConfig) -> socket.socket | paramiko.Channel:
        if self._transports:
            return _through(self._transports[-1], config)
        if config.proxy_command is None:
            return _dial(config)
        ours, theirs = socket.socketpair()
        # The user's own shell line, as ssh runs it: exec, so that what we end
        # is the program and not its shell.
        command = ["/bin/sh", "-c", f"exec {config.proxy_command}"]
        self._proxies.append(Helper(command, theirs))
        return ours

    def run(self, argv: Sequence[str]) -> ParamikoChannel:
        """See `ssh.Session.run`."""
        transport = self._transports[-1]
        # paramiko waits for ever for the answer to exec.
        patience = threading.Timer(transport.channel_timeout, self.abort)
        patience.start()
        try:
            channel = transport.open_session(
                window_size=_WINDOW_BYTES, max_packet_size=_PACKET_BYTES
            )
            channel.exec_command(command_line(argv))
        except (SSHException, OSError, EOFError) as error:
            raise TransportError(
                f"{self.peer}: cannot start {argv[0]}: {one_line(error)}"
            ) from error
        finally:
            patience.cancel()
            patience.join()
        wrapped = ParamikoChannel(channel, self.peer, argv, self.abort)
        self._channels.append(wrapped)
        return wrapped

    def abort(self) -> None:
        """End the connections at once, without a word to the hosts.

        The one with the socket goes first: those inside it would otherwise wait
        for a dead network to take their goodbyes.
        """
        for transport in self._transports:
            transport.close()

    def close(self) -> None:
        """See `ssh.Session.close`: afterwards no thread of it is left."""
        self.abort()
        for transport in self._transports:
            _end(transport)
        for channel in self._channels:
            channel.close()
        for proxy in self._proxies:
            proxy.end(0)
        self._transports, self._channels, self._proxies = [], [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ParamikoChannel:
    """The stdin and stdout of a remote command; see `channel.ByteChannel`."""

    def __init__(
        self,
        channel: paramiko.Channel,
        peer: str,
        argv: Sequence[str],
        end_session: Callable[[], None],
    ) -> None:
        self.peer = peer
        self._channel = channel
        self._argv = argv
        self._end_session = end_session
        self._joined = memoryview(bytearray(0))
        self._left = memoryview(b"")
        self._aborted = False
        self._stderr = StderrTail(lambda: channel.recv_stderr(64 * 1024))

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        """See `ByteChannel.send`: joined, so that a header costs no packet of its own."""
        data = self._join(buffers)
        try:
            while data:
                sent = self._channel.send(data)  # type: ignore[arg-type]  # any buffer
                if not sent:
                    raise ChannelEnded(f"{self.peer}: the connection is closed")
                data = data[sent:]
        except (OSError, EOFError, SSHException) as error:
            raise ChannelEnded(f"{self.peer}: sending failed: {one_line(error)}") from error

    def _join(self, buffers: Sequence[bytes | bytearray | memoryview]) -> memoryview:
        """Return one buffer, the same one each time: new memory is slower than the copy."""
        size = sum(len(buffer) for buffer in buffers)
        if size > len(self._joined):
            self._joined = memoryview(bytearray(size))
        end = 0
        for buffer in buffers:
            self._joined[end : end + len(buffer)] = buffer
            end += len(buffer)
        return self._joined[:size]

    def recv_into(self, view: memoryview) -> int:
        """See `ByteChannel.recv_into`.

        Everything that is there is taken at once: paramiko moves what it is
        left with to the front of its buffer on every read.
        """
        if not len(self._left):
            try:
                self._left = memoryview(self._channel.recv(_WINDOW_BYTES))
            except (OSError, EOFError, SSHException) as error:
                raise ChannelEnded(f"{self.peer}: receiving failed: {one_line(error)}") from error
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def abort(self) -> None:
        """See `ByteChannel.abort`.

        Ends the connection: on a dead one, closing only the channel would wait.
        """
        if not self._aborted:
            self._aborted = True
            self._end_session()

    def close(self) -> None:
        """See `ByteChannel.close`."""
        self.abort()
        self._channel.close()
        self._stderr.finish(None)

    def explain(self) -> TransportError | None:
        """See `ByteChannel.explain`.

        Only a command that ended in order has a status, and its last words are
        of its end; a connection that broke says nothing of the command.
        """
        channel = self._channel
        if not channel.eof_received:
            return None
        deadline = time.monotonic() + _EXIT_WAIT_SECONDS
        while not channel.exit_status_ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._stderr.finish(0.5)
        status = channel.recv_exit_status() if channel.exit_status_ready() else -1
        # paramiko has -1 for a command that a signal ended.
        known = None if status == -1 else status
        return explain_exit(self.peer, self._argv, known, self._stderr.lines)


# Reaching the host.


def _dial(config: HostConfig) -> socket.socket:
    where = f"{config.target.host}"
    if config.host != config.target.host or config.port != 22:
        where = f"{config.target.host} ({config.host} port {config.port})"
    source = (config.bind_address, 0) if config.bind_address else None
    try:
        sock = socket.create_connection(
            (config.host, config.port), config.timeout_seconds, source_address=source
        )
    except socket.gaierror as error:
        raise TransportError(
            f"{where}: name cannot be resolved: {str(error.strerror).lower()}",
            "Check the spelling, or give the host a HostName in ~/.ssh/config.",
        ) from error
    except TimeoutError as error:
        raise TransportError(
            f"{where}: no answer within {config.timeout_seconds:g} s",
            "Check that the host is up and that no firewall drops the port.",
        ) from error
    except OSError as error:
        hints = {errno.ECONNREFUSED: "Start sshd there, or give its port as host:port."}
        raise TransportError(
            f"{where}: {one_line(error)}",
            hints.get(error.errno or 0, "Check the network to the host."),
        ) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return sock


def _through(transport: paramiko.Transport, config: HostConfig) -> paramiko.Channel:
    try:
        return transport.open_channel(
            "direct-tcpip",
            (config.host, config.port),
            ("127.0.0.1", 0),
            window_size=_WINDOW_BYTES,
            timeout=config.timeout_seconds,
        )
    except (SSHException, OSError, EOFError) as error:
        raise TransportError(
            f"{config.target.host}: cannot be reached through the host before it: {one_line(error)}"
        ) from error


def _start(sock: socket.socket | paramiko.Channel, config: HostConfig) -> paramiko.Transport:
    """Return a transport whose host has proved to be the known one."""
    known = KnownHosts.read(config.known_hosts)
    transport = paramiko.Transport(sock)
    transport.banner_timeout = transport.handshake_timeout = config.timeout_seconds
    transport.auth_timeout = transport.channel_timeout = config.timeout_seconds
    transport.packetizer.REKEY_BYTES = _REKEY_BYTES
    transport.packetizer.REKEY_PACKETS = _REKEY_PACKETS
    security = transport.get_security_options()
    security.ciphers = _choose(_CIPHERS, security.ciphers, config.ciphers)
    security.compression = ("none",)
    security.key_types = _order_key_types(security.key_types, known, config)
    before = time.monotonic()
    try:
        transport.start_client(timeout=config.timeout_seconds)
        key = transport.get_remote_server_key()
    except (SSHException, OSError, EOFError) as error:
        _end(transport)
        late = time.monotonic() - before >= config.timeout_seconds
        why = f"no answer within {config.timeout_seconds:g} s" if late else one_line(error)
        raise TransportError(f"{config.target.host}: no SSH connection: {why}") from error
    try:
        known.check(
            config.key_name,
            config.key_port,
            HostKey(key.get_name(), key.asbytes()),
            add_to=config.known_hosts[0] if config.known_hosts else "~/.ssh/known_hosts",
        )
    except HostKeyError:
        _end(transport)
        raise
    return transport


def _end(transport: paramiko.Transport) -> None:
    """Close a connection, and wait for the thread that paramiko runs for it."""
    transport.close()
    if transport.is_alive():
        transport.join(_JOIN_SECONDS)


def _choose(
    ours: Sequence[str], possible: Sequence[str], allowed: Sequence[str] | None
) -> tuple[str, ...]:
    chosen = [name for name in ours if name in possible]
    permitted = [name for name in chosen if allowed is None or name in allowed]
    if not permitted:
        raise TransportError(
            f"none of the configured algorithms is known here: {', '.join(allowed or ())}",
            "Use --transport openssh, or allow one of: " + ", ".join(chosen) + ".",
        )
    return tuple(permitted)


def _order_key_types(
    possible: Sequence[str], known: KnownHosts, config: HostConfig
) -> tuple[str, ...]:
    """Ask first for a kind of key that is known, as ssh does."""
    kinds = set(known.kinds(config.key_name, config.key_port))
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    ordered = sorted(possible, key=lambda kind: kind not in kinds)
    return _choose(ordered, possible, config.host_key_algorithms)
