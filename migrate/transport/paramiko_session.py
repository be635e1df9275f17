"""A session by paramiko: connecting, checking the host, logging in, one channel.

Lives here: every use of paramiko. Must not live here: reading configuration or
known_hosts files. `migrate.transport.ssh` imports it when it is asked for,
because importing paramiko takes a tenth of a second.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Self

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import SSHException

from migrate.errors import AuthenticationError, HostKeyError, TransportError
from migrate.transport.channel import ChannelEnded
from migrate.transport.hostkeys import HostKey, KnownHosts
from migrate.transport.ssh import Options, StderrTail, Target, command_line, explain_exit
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
_UNSENT_BYTES = 512 * 1024
_MOST_JUMPS = 8
_EXIT_WAIT_SECONDS = 2.0


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
        self._proxies: list[subprocess.Popen[bytes]] = []

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
        except BaseException:
            sock.close()
            raise
        self._transports.append(transport)
        _log_in(transport, config)

    def _reach(self, config: HostConfig) -> socket.socket | paramiko.Channel:
        if self._transports:
            return _through(self._transports[-1], config)
        if config.proxy_command is None:
            return _dial(config)
        ours, theirs = socket.socketpair()
        # The user's own shell line, as ssh runs it: exec, so that what we end
        # is the program and not its shell.
        with theirs:
            self._proxies.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {config.proxy_command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    start_new_session=True,
                )
            )
        return ours

    def run(self, argv: Sequence[str]) -> ParamikoChannel:
        """See `ssh.Session.run`."""
        try:
            channel = self._transports[-1].open_session(
                window_size=_WINDOW_BYTES, max_packet_size=_PACKET_BYTES
            )
            channel.exec_command(command_line(argv))
        except (SSHException, OSError, EOFError) as error:
            raise TransportError(f"{self.peer}: cannot start {argv[0]}: {_text(error)}") from error
        wrapped = ParamikoChannel(channel, self.peer, argv, self.close)
        self._channels.append(wrapped)
        return wrapped

    def close(self) -> None:
        """See `ssh.Session.close`: afterwards no thread of it is left."""
        transports, self._transports = self._transports[::-1], []
        for transport in transports:
            _end(transport)
        for channel in self._channels:
            channel.close()
        for proxy in self._proxies:
            proxy.kill()
            proxy.wait()
        self._channels, self._proxies = [], []

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
        self._left = memoryview(b"")
        self._aborted = False
        self._stderr = StderrTail(lambda: channel.recv_stderr(64 * 1024))

    def send(self, *buffers: bytes | bytearray | memoryview) -> None:
        """See `ByteChannel.send`: joined, so that a header costs no packet of its own."""
        data = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
        try:
            while data:
                sent = self._channel.send(data)  # type: ignore[arg-type]  # any buffer
                if not sent:
                    raise ChannelEnded(f"{self.peer}: the connection is closed")
                data = data[sent:]
        except (OSError, EOFError, SSHException) as error:
            raise ChannelEnded(f"{self.peer}: sending failed: {_text(error)}") from error

    def recv_into(self, view: memoryview) -> int:
        """See `ByteChannel.recv_into`.

        Everything that is there is taken at once: paramiko moves what it is
        left with to the front of its buffer on every read.
        """
        if not len(self._left):
            try:
                self._left = memoryview(self._channel.recv(_WINDOW_BYTES))
            except (OSError, EOFError, SSHException) as error:
                raise ChannelEnded(f"{self.peer}: receiving failed: {_text(error)}") from error
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
            self._channel.get_transport().close()

    def close(self) -> None:
        """See `ByteChannel.close`."""
        self.abort()
        self._channel.close()
        self._stderr.finish(None)

    def explain(self) -> TransportError | None:
        """See `ByteChannel.explain`."""
        ended = self._channel.closed or self._channel.eof_received
        deadline = time.monotonic() + (_EXIT_WAIT_SECONDS if ended else 0)
        while not self._channel.exit_status_ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        known = self._channel.exit_status_ready()
        status = self._channel.recv_exit_status() if known else -1
        if ended:
            self._stderr.finish(0.5)
        lines = self._stderr.lines
        return explain_exit(self.peer, self._argv, None if status == -1 else status, lines)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error) or type(error).__name__).splitlines()[0]


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
            f"{where}: name cannot be resolved: {error.strerror}".lower(),
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
            f"{where}: {_text(error)}",
            hints.get(error.errno or 0, "Check the network to the host."),
        ) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return sock


_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; missing in Python's socket


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
            f"{config.target.host}: cannot be reached through the host before it: {_text(error)}"
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
        why = f"no answer within {config.timeout_seconds:g} s" if late else _text(error)
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
        transport.join()


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


# Logging in.


def _log_in(transport: paramiko.Transport, config: HostConfig) -> None:
    """Try keys until the server is content.

    Raises:
        AuthenticationError: it takes none of them.
    """
    where = f"{config.user}@{config.target.host}"
    tried: list[str] = []
    locked: list[str] = []
    agent = _agent(config)
    try:
        for what, key in _candidates(config, agent, locked):
            tried.append(what)
            try:
                more = transport.auth_publickey(config.user, key)
            except paramiko.BadAuthenticationType as error:
                allowed = ", ".join(error.allowed_types)
                raise AuthenticationError(
                    f"{where}: permission denied: the host accepts only {allowed}",
                    "Allow public keys there: PubkeyAuthentication in sshd_config.",
                ) from error
            except paramiko.AuthenticationException:
                continue
            except (SSHException, OSError, EOFError) as error:
                raise AuthenticationError(
                    f"{where}: permission denied after {len(tried)} keys: {_text(error)}",
                    "Name the right key with IdentityFile and IdentitiesOnly in ~/.ssh/config.",
                ) from error
            if not more:
                return
            raise AuthenticationError(
                f"{where}: permission denied: beside a key the host wants {', '.join(more)}",
                "Let a key alone suffice there: AuthenticationMethods in sshd_config.",
            )
    finally:
        if agent is not None:
            agent.close()
    hint = "Add a public key to ~/.ssh/authorized_keys of that user."
    if locked:
        hint = f"Unlock the key for the agent first: ssh-add {locked[0]}"
    keys = ", ".join(tried) if tried else "no key to try"
    raise AuthenticationError(f"{where}: permission denied ({keys})", hint)


class _Agent(paramiko.agent.AgentSSH):
    """paramiko's agent, at the socket that the configuration names."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10.0)
        try:
            self._socket.connect(path)
            self._connect(self._socket)  # type: ignore[attr-defined]
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Leave the agent."""
        self._close()  # type: ignore[attr-defined]


def _agent(config: HostConfig) -> _Agent | None:
    if config.agent_socket is None:
        return None
    try:
        return _Agent(config.agent_socket)
    except (OSError, SSHException):
        return None  # as ssh: an agent that is not there has no keys


def _candidates(
    config: HostConfig, agent: _Agent | None, locked: list[str]
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield keys in ssh's order: the agent's that are configured, its others, files."""
    files = [path for path in config.identity_files if os.path.exists(path)]
    public = {blob: path for path in files if (blob := _public_blob(path)) is not None}
    keys = list(agent.get_keys()) if agent else []
    configured = [key for key in keys if key.asbytes() in public]
    others = [] if config.identities_only else [key for key in keys if key not in configured]
    for agent_key in (*configured, *others):
        yield f"{agent_key.get_name()} of the agent", agent_key
    done = {key.asbytes() for key in keys}
    for path in files:
        try:
            key = paramiko.PKey.from_path(path)
        except (TypeError, paramiko.PasswordRequiredException):
            # cryptography says TypeError where a passphrase is wanted.
            locked.append(path)
            continue
        except (OSError, ValueError, SSHException, UnknownKeyType):
            continue  # no private key, or one of a security token
        if key.asbytes() not in done:
            yield path, key


def _public_blob(path: str) -> bytes | None:
    import base64
    import binascii

    try:
        with open(f"{path}.pub", encoding="utf-8", errors="replace") as file:
            return base64.b64decode(file.read().split()[1])
    except (OSError, IndexError, ValueError, binascii.Error):
        return None
