"""Is this the key of the host we mean? Known hosts files, read as sshd(8) documents them.

Lives here: parsing known_hosts (hashed and wildcard names, ports, @revoked,
@cert-authority), the verdict on a key, and the error that says what to do.
Must not live here: connections. `migrate.transport` only. There is no way, and
no option, that adds a key: a person compares a fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from migrate.errors import HostKeyError

DEFAULT_PORT = 22


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key, as it is in a known_hosts line or comes from a server."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """The form that ssh-keygen -l prints."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"

    @property
    def short_kind(self) -> str:
        """Such as ED25519, as ssh names it for people."""
        name = self.kind.removeprefix("ssh-").removeprefix("ecdsa-sha2-")
        return "ECDSA" if name.startswith("nistp") else name.upper()


@dataclass(frozen=True, slots=True)
class Line:
    """One usable line of a known_hosts file."""

    path: str
    number: int
    marker: str
    names: tuple[str, ...]
    key: HostKey

    @property
    def where(self) -> str:
        """File and line, for people."""
        return f"{self.path}:{self.number}"

    def is_for(self, name: str) -> bool:
        """Whether the line speaks about `name`, which may be `[host]:port`."""
        matched = False
        for pattern in self.names:
            if pattern.startswith("|1|"):
                matched = matched or _hash_matches(pattern, name)
            elif pattern.startswith("!"):
                if fnmatch.fnmatchcase(name, _escape_brackets(pattern[1:].lower())):
                    return False
            else:
                matched = matched or fnmatch.fnmatchcase(name, _escape_brackets(pattern.lower()))
        return matched


def _escape_brackets(pattern: str) -> str:
    """Leave `*` and `?` their meaning and take it from `[`, as ssh does."""
    return pattern.replace("[", "[[]")


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)


def known_name(host: str, port: int) -> str:
    """Return how known_hosts files name a host at a port."""
    host = host.lower()
    return host if port == DEFAULT_PORT else f"[{host}]:{port}"


def parse_line(text: str, path: str, number: int) -> Line | None:
    """Return the line, or None where it is empty, a comment, or no key of a kind we read."""
    fields = text.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    names, kind, encoded = fields[:3]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return Line(path, number, marker, tuple(names.split(",")), HostKey(kind, blob))


class KnownHosts:
    """The lines of all known_hosts files that count for a connection."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = tuple(lines)

    @classmethod
    def read(cls, paths: Iterable[str]) -> KnownHosts:
        """Read `paths`; one that does not exist holds nothing.

        Raises:
            HostKeyError: a file is there and cannot be read.
        """
        lines: list[Line] = []
        for path in paths:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    texts = file.readlines()
            except FileNotFoundError:
                continue
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise HostKeyError(f"{path}: cannot be read: {reason}") from error
            parsed = (parse_line(text, path, number) for number, text in enumerate(texts, 1))
            lines.extend(line for line in parsed if line is not None)
        return cls(lines)

    def kinds(self, host: str, port: int) -> list[str]:
        """Return the kinds of keys known for a host: what to ask it for first."""
        name = known_name(host, port)
        return [line.key.kind for line in self._lines if not line.marker and line.is_for(name)]

    def check(self, host: str, port: int, key: HostKey, add_to: str) -> None:
        """Return if `key` is known to be the key of that host.

        Args:
            host: name or alias under which its key is kept.
            port: a port other than 22 is part of the name.
            key: what the server proved to hold.
            add_to: the file that the hint suggests to add an unknown key to.

        Raises:
            HostKeyError: the key is unknown, another one, or revoked.
        """
        name = known_name(host, port)
        lines = [line for line in self._lines if line.is_for(name)]
        for line in lines:
            if line.marker == "@revoked" and line.key.blob == key.blob:
                raise _revoked(name, key, line)
        plain = [line for line in lines if not line.marker]
        if any(line.key == key for line in plain):
            return
        # As ssh: another key of the same kind is a changed one; a known host
        # that comes with a kind never seen has changed as well, since it was
        # asked for the known kinds first.
        others = [line for line in plain if line.key.kind == key.kind] or plain
        if others:
            raise _changed(name, key, others[0])
        authority = next((line for line in lines if line.marker == "@cert-authority"), None)
        raise _unknown(name, key, add_to, authority)


def _unknown(name: str, key: HostKey, add_to: str, authority: Line | None) -> HostKeyError:
    entry = f"{name} {key.kind} {base64.b64encode(key.blob).decode()}"
    command = f"echo {shlex.quote(entry)} >> {shlex.quote(add_to)}"
    note = (
        f" (the certificate authority in {authority.where} counts only with --transport openssh)"
        if authority
        else ""
    )
    return HostKeyError(
        f"{name}: unknown host key, {key.short_kind} {key.fingerprint}{note}",
        f"Compare the fingerprint with that host's `ssh-keygen -lf "
        f"/etc/ssh/ssh_host_{key.short_kind.lower()}_key.pub`; "
        f"if they are the same, add the key: {command}",
    )


def _changed(name: str, key: HostKey, line: Line) -> HostKeyError:
    return HostKeyError(
        f"{name}: HOST KEY HAS CHANGED: it shows {key.short_kind} {key.fingerprint}, "
        f"{line.where} knows {line.key.short_kind} {line.key.fingerprint}; "
        f"somebody may be between the two hosts",
        f"Ask who runs that host; only if its key was changed on purpose, remove the old one: "
        f"ssh-keygen -f {shlex.quote(line.path)} -R {shlex.quote(name)}",
    )


def _revoked(name: str, key: HostKey, line: Line) -> HostKeyError:
    return HostKeyError(
        f"{name}: HOST KEY IS REVOKED: {key.short_kind} {key.fingerprint}, in {line.where}",
        "Ask who runs that host for a new host key.",
    )
