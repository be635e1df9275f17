"""What happened, as data: the one stream that progress, logs and reports are made of.

Lives here: the event types and the sink they go to. Must not live here:
formatting (that is `migrate.cli`) or policy. Every room but `runtime.init`
may import it.

Code calls `emit(event)`. Whoever runs the program installs one sink: the
terminal renderer, the plain printer, the JSON printer, or the agent's, which
sends each event to the source.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(slots=True, kw_only=True)
class Event:
    """What all events carry.

    Attributes:
        host: name of the host it happened on, "" for this one.
        at_seconds: wall clock, seconds since the epoch, for people only;
            durations are measured by `monotonic_seconds`.
        monotonic_seconds: `time.monotonic` of the host it happened on.
    """

    host: str = ""
    at_seconds: float = field(default_factory=time.time)
    monotonic_seconds: float = field(default_factory=time.monotonic)


@dataclass(slots=True, kw_only=True)
class PhaseEntered(Event):
    """A side of a migration entered a phase (`live.phases`)."""

    side: Literal["source", "destination"]
    phase: str


@dataclass(slots=True, kw_only=True)
class Progress(Event):
    """How far a long step is.

    Attributes:
        step: such as `rootfs` or `memory`.
        done_bytes: bytes finished, before compression.
        total_bytes: bytes expected, or None where nobody can know.
        wire_bytes: bytes that went over the link for it so far.
    """

    step: str
    done_bytes: int
    total_bytes: int | None = None
    wire_bytes: int = 0


@dataclass(slots=True, kw_only=True)
class Finding(Event):
    """What a check found before anything was frozen."""

    check: str
    verdict: Literal["ok", "warn", "refuse"]
    message: str
    hint: str = ""


@dataclass(slots=True, kw_only=True)
class Checked(Event):
    """The end of the checks of `migrate check`.

    Attributes:
        container: id, or "" where the machines alone were looked at.
        source: name of the host it is on.
        destination: name of the other host, or "".
    """

    container: str
    source: str
    destination: str
    warnings: int
    refusals: int


@dataclass(slots=True, kw_only=True)
class Foretold(Event):
    """What a migration would be like, see `migrate live --dry-run`.

    Attributes:
        destination: name of the other host.
        strategy: how memory would go.
        memory_bytes: contents of its memory, zeros not counted.
        files_bytes: size of what is in its root file system.
        link_bytes_per_second: before compression.
        passes: over its memory while it runs.
    """

    container: str
    destination: str
    strategy: str
    memory_bytes: int
    files_bytes: int
    written_bytes_per_second: int
    link_bytes_per_second: int
    passes: int
    downtime_seconds: float
    total_seconds: float


@dataclass(slots=True, kw_only=True)
class Placed(Event):
    """Where `migrate drain` will move a container.

    Attributes:
        destination: as the user named it, or "" for nowhere; then reason says why.
    """

    container: str
    destination: str
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Relayed(Event):
    """An event of one of several migrations.

    Attributes:
        happened: the event, as `as_json` wrote it.
    """

    container: str
    happened: dict[str, Any]


Result = Literal["moved", "refused", "failed", "interrupted", "undecided", "lost", "not begun"]


@dataclass(slots=True, kw_only=True)
class Departed(Event):
    """How one of several migrations ended.

    Attributes:
        destination: as the user named it, or "".
        reason: why it did not move, "" where it did; hint: what to do about it.
        downtime_seconds, total_seconds: of its report, where there is one.
    """

    container: str
    destination: str
    result: Result
    reason: str = ""
    hint: str = ""
    downtime_seconds: float | None = None
    total_seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class Drained(Event):
    """The end of `migrate drain`: how each container fared, and how long it took."""

    departed: list[Departed]
    total_seconds: float


@dataclass(slots=True, kw_only=True)
class Log(Event):
    """A line for people that fits nowhere else."""

    level: Literal["debug", "info", "warning", "error"]
    message: str


@dataclass(slots=True, kw_only=True)
class Report(Event):
    """The end of a migration, in numbers (`live.report`)."""

    report: dict[str, Any]


Sink = Callable[[Event], None]


def _discard(event: Event) -> None:
    """Drop what nobody asked to see."""


_sink: Sink = _discard


def install(sink: Sink) -> Sink:
    """Make `sink` the receiver of every later event; returns the one before it."""
    global _sink  # one stream a process is the point
    before, _sink = _sink, sink
    return before


def emit(event: Event) -> None:
    """Hand an event to the installed sink."""
    _sink(event)


def as_json(event: Event) -> dict[str, Any]:
    """Return the event as JSON-able data, its type's name under `event`."""
    return {"event": type(event).__name__, **asdict(event)}
