"""Getting to the agent on the other host.

Lives here: from what the user wrote after --to, or what a journal kept of it, to a
link with an agent at its other end. `live` only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from migrate.errors import MigrationError
from migrate.live.report import ROUND_TRIPS
from migrate.transport.link import Link, Peer
from migrate.transport.ssh import Options, Program, Target, connect

AGENT = ("migrate", "agent")
# A peer that says nothing for so long is gone; the link's heartbeats are closer.
SILENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the other host is reached; JSON-able, since recovery goes the same way.

    Attributes:
        target: `[user@]host[:port]`.
        agent: the command there.
        transport: which program speaks SSH.
        control_path: of a connection that others go through, too, while it is there. No
            journal keeps it: recovery makes one of its own.
    """

    target: str
    agent: tuple[str, ...] = AGENT
    transport: Program = "paramiko"
    config_file: str | None = None
    known_hosts: str | None = None
    identity: str | None = None
    connect_seconds: float | None = None
    silence_seconds: float = field(default=SILENCE_SECONDS)
    control_path: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what a journal keeps."""
        return {name: value for name, value in asdict(self).items() if name != "control_path"}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Way:
        """Return what `to_json` wrote.

        Raises:
            MigrationError: it is not that.
        """
        try:
            return Way(**{**data, "agent": tuple(data["agent"])})
        except (TypeError, KeyError) as error:
            raise MigrationError(f"journal does not say how to reach the peer: {error}") from None

    @property
    def host(self) -> str:
        """The host's name, for messages."""
        return Target.parse(self.target).host


@dataclass(frozen=True, slots=True)
class Reached:
    """An agent at the other end of a link."""

    link: Link
    peer: Peer


@contextlib.contextmanager
def reach(way: Way) -> Iterator[Reached]:
    """Log in, start the agent and greet it.

    Raises:
        TransportError: one of the three failed; says which, and what to do.
    """
    target = Target.parse(way.target)
    with connect(target, _options(way), transport=way.transport) as session:
        channel = session.run(way.agent)
        with Link(channel, "source", silence_seconds=way.silence_seconds) as link:
            yield Reached(link, link.handshake())


@contextlib.contextmanager
def shared(way: Way, path: str) -> Iterator[Way]:
    """Log in once, and give the way through that connection; by the ssh program alone.

    Args:
        path: of its socket, in a folder of ours alone.

    Raises:
        TransportError: it cannot be reached, or does not let us in.
    """
    if way.transport != "openssh":
        yield way
        return
    from migrate.transport.shared import SharedConnection

    with SharedConnection(Target.parse(way.target), _options(way), path):
        yield replace(way, control_path=path)


def _options(way: Way) -> Options:
    return Options(
        config_file=way.config_file,
        known_hosts=way.known_hosts,
        identity=way.identity,
        timeout_seconds=way.connect_seconds,
        control_path=way.control_path,
    )


def measure_round_trips(link: Link) -> list[float]:
    """Return how long a few questions and answers took, in seconds."""
    taken = []
    for _ in range(ROUND_TRIPS):
        before = time.monotonic()
        link.call("ping", timeout_seconds=30)
        taken.append(time.monotonic() - before)
    return taken
