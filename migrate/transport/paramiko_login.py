"""Logging in by paramiko: which keys are tried, in which order, and why none did.

Lives here: the agent, key files, and the refusals. Must not live here: anything
before the host has proved who it is. Used by `paramiko_session` only.

A password is never asked for and never sent: where a key does not open the
door, neither does this.
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
from collections.abc import Iterator

import paramiko
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import SSHException

from migrate.errors import AuthenticationError
from migrate.transport.sshconfig import HostConfig


def one_line(error: BaseException) -> str:
    """Return what paramiko or the kernel says, fit for a message."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return (str(error) or type(error).__name__).splitlines()[0]


def log_in(transport: paramiko.Transport, config: HostConfig) -> None:
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
                    f"{where}: permission denied after {len(tried)} keys: {one_line(error)}",
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
    try:
        with open(f"{path}.pub", encoding="utf-8", errors="replace") as file:
            return base64.b64decode(file.read().split()[1])
    except (OSError, IndexError, ValueError, binascii.Error):
        return None
