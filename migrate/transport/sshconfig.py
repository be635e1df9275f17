"""What ~/.ssh/config says about a host.

Lives here: asking `ssh -G`, which knows every keyword (Include, Match,
CanonicalizeHostname, tokens) as the user's own ssh does; and, where there is no
ssh program, paramiko's reader, which knows neither Include nor `Match exec`.
Must not live here: connections. `migrate.transport` only.

Honoured: HostName, Port, User, IdentityFile, IdentitiesOnly, IdentityAgent,
ProxyJump, ProxyCommand, UserKnownHostsFile, GlobalKnownHostsFile, HostKeyAlias,
HostKeyAlgorithms, Ciphers, ConnectTimeout, BindAddress. StrictHostKeyChecking
counts as yes whatever it says.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from migrate import events
from migrate.errors import TransportError
from migrate.transport.ssh import Options, Target

_SSH_TIMEOUT_SECONDS = 20.0
_DEFAULT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Everything that decides how a host is reached.

    Attributes:
        target: as the user named it.
        host: where to connect to.
        port: TCP port there.
        user: whom to log in as.
        key_name: under what name the host's key is kept (HostKeyAlias).
        key_port: the port that belongs to it; 22 for an alias.
        known_hosts: files, in order; the first is the user's.
        identity_files: private keys, in order; some may not exist.
        identities_only: other keys of the agent are not to be tried.
        agent_socket: the agent's, or None for no agent.
        proxy_jump: hosts to go through, in order.
        proxy_command: a program to go through, tokens expanded, or None.
        bind_address: local address, or None.
        timeout_seconds: for connecting.
        ciphers: those allowed, or None for any.
        host_key_algorithms: those allowed, or None for any.
    """

    target: Target
    host: str
    port: int
    user: str
    key_name: str
    key_port: int
    known_hosts: tuple[str, ...]
    identity_files: tuple[str, ...]
    identities_only: bool
    agent_socket: str | None
    proxy_jump: tuple[Target, ...]
    proxy_command: str | None
    bind_address: str | None
    timeout_seconds: float
    ciphers: tuple[str, ...] | None
    host_key_algorithms: tuple[str, ...] | None


def resolve(target: Target, options: Options) -> HostConfig:
    """Return how to reach `target`.

    Raises:
        TransportError: the configuration cannot be read.
    """
    if options.identity is not None and not os.path.exists(options.identity):
        raise TransportError(f"identity {options.identity}: does not exist")
    values = _ask_ssh(target, options) if shutil.which("ssh") else _ask_paramiko(target, options)
    return _interpret(target, options, values)


_Values = dict[str, list[str]]


def ssh_arguments(target: Target, options: Options) -> list[str]:
    """Return the arguments that make the ssh program see the same target and files."""
    arguments: list[str] = []
    if options.config_file is not None:
        arguments += ["-F", options.config_file]
    if target.user is not None:
        arguments += ["-l", target.user]
    if target.port is not None:
        arguments += ["-p", str(target.port)]
    if options.identity is not None:
        arguments += ["-i", options.identity]
    if options.known_hosts is not None:
        quoted = options.known_hosts.replace("\\", "\\\\").replace('"', '\\"')
        arguments += ["-o", f'UserKnownHostsFile="{quoted}"', "-o", "GlobalKnownHostsFile=none"]
    return arguments


def _ask_ssh(target: Target, options: Options) -> _Values:
    command = ["ssh", "-G", *ssh_arguments(target, options), "--", target.host]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SSH_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(f"{target.host}: ssh -G failed: {error}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        # The last line only counts the errors; the one before names file and line.
        said = next((line for line in lines if "terminating" not in line), "no reason given")
        raise TransportError(f"{target.host}: ssh's configuration cannot be read: {said}")
    values: _Values = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value)
    return values


def _ask_paramiko(target: Target, options: Options) -> _Values:
    import paramiko

    path = options.config_file or os.path.join(_home(), ".ssh", "config")
    config = paramiko.SSHConfig()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if any(line.strip().lower().startswith("include") for line in text.splitlines()):
            message = f"{path}: Include is read only where the ssh program is installed"
            events.emit(events.Log(level="warning", message=message))
        config = paramiko.SSHConfig.from_text(text)
        found: Mapping[str, object] = config.lookup(target.host)
    except FileNotFoundError:
        if options.config_file is not None:
            raise TransportError(f"{path}: does not exist") from None
        found = {}
    except (OSError, paramiko.SSHException, ImportError) as error:
        raise TransportError(f"{path}: cannot be read: {error}") from error
    values: _Values = {}
    for key, value in found.items():
        values[key] = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    _override(values, target, options)
    return values


def _override(values: _Values, target: Target, options: Options) -> None:
    """Let what the user said on the command line win."""
    if target.user is not None:
        values["user"] = [target.user]
    if target.port is not None:
        values["port"] = [str(target.port)]
    names = ("id_ed25519", "id_ecdsa", "id_rsa")
    values.setdefault("identityfile", [f"~/.ssh/{name}" for name in names])
    if options.identity is not None:
        values["identityfile"].insert(0, options.identity)
    values.setdefault("userknownhostsfile", ["~/.ssh/known_hosts ~/.ssh/known_hosts2"])
    values.setdefault("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts"])


def _interpret(target: Target, options: Options, values: _Values) -> HostConfig:
    def first(key: str, default: str = "") -> str:
        value = values.get(key, [default])[0]
        return default if value.lower() in {"none", ""} else value

    host = first("hostname", target.host)
    port = int(first("port", "22"))
    user = first("user") or getpass.getuser()
    alias = first("hostkeyalias")
    tokens = {"h": host, "n": target.host, "p": str(port), "r": user, "u": getpass.getuser()}
    known = [first("userknownhostsfile"), first("globalknownhostsfile")]
    paths = [path for text in known for path in shlex.split(text)]
    if options.known_hosts is not None:
        paths = [options.known_hosts]
    jump = first("proxyjump")
    command = first("proxycommand")
    return HostConfig(
        target=target,
        host=host,
        port=port,
        user=user,
        key_name=alias or host,
        key_port=22 if alias else port,
        known_hosts=tuple(_expand(path, tokens) for path in paths),
        identity_files=tuple(_expand(path, tokens) for path in values.get("identityfile", [])),
        identities_only=first("identitiesonly", "no") in {"yes", "true"},
        agent_socket=_agent_socket(values.get("identityagent", [""])[0], tokens),
        proxy_jump=tuple(
            Target.parse(hop.removeprefix("ssh://")) for hop in jump.split(",") if hop
        ),
        proxy_command=_expand_tokens(command, tokens) if command else None,
        bind_address=first("bindaddress") or None,
        timeout_seconds=_timeout(options.timeout_seconds, first("connecttimeout")),
        ciphers=_names(first("ciphers")),
        host_key_algorithms=_names(first("hostkeyalgorithms")),
    )


def _timeout(asked_seconds: float | None, configured: str) -> float:
    if asked_seconds is not None:
        return asked_seconds
    return float(configured) if configured.isdigit() else _DEFAULT_TIMEOUT_SECONDS


def _names(text: str) -> tuple[str, ...] | None:
    """Return a list of algorithms; None where it only edits ssh's own (+, -, ^)."""
    return tuple(text.split(",")) if text and text[0] not in "+-^" else None


def _agent_socket(text: str, tokens: Mapping[str, str]) -> str | None:
    environment = os.environ.get("SSH_AUTH_SOCK") or None
    if text.lower() == "none":
        return None
    if text in {"", "SSH_AUTH_SOCK"}:
        return environment
    if text.startswith("$"):
        return os.environ.get(text[1:].strip("{}")) or None
    return _expand(text, tokens)


def _home() -> str:
    """Return the home that ssh reads: the password file's, whatever $HOME says."""
    return pwd.getpwuid(os.getuid()).pw_dir


def _expand(path: str, tokens: Mapping[str, str]) -> str:
    if path == "~" or path.startswith("~/"):
        path = _home() + path[1:]
    return _expand_tokens(path, {**tokens, "d": _home()})


def _expand_tokens(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub(r"%(.)", lambda match: {**tokens, "%": "%"}.get(match[1], match[0]), text)
