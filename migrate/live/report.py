"""What a migration took: marks on a time line, downtime, bytes.

Lives here: measuring and summing up. Must not live here: showing it (`migrate.cli`).
`live` only.

The downtime is measured without comparing the clocks of two hosts. The source
measures, on its own monotonic clock, from just before the freeze until COMMITTED is
said; the destination, on its own, from hearing it until CRIU has let the last process
go. What is missing between the two is one way over the link, taken as half of the
shortest round trip seen. The bound beside it, from the freeze until the destination's
"it runs" has arrived, needs no such assumption: the container stood still no longer
than that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROUND_TRIPS = 5


@dataclass(slots=True)
class Bytes:
    """How much one kind of data was, and became on the wire."""

    raw: int = 0
    wire: int = 0


@dataclass(slots=True)
class Timeline:
    """When what was reached, on this host's monotonic clock."""

    started: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note that this is reached now; the first time counts."""
        self.marks.setdefault(name, time.monotonic())

    def between(self, first: str, last: str) -> float | None:
        """Return the seconds from one mark to another, None if one was not reached."""
        if first not in self.marks or last not in self.marks:
            return None
        return self.marks[last] - self.marks[first]

    def as_json(self) -> list[dict[str, object]]:
        """Return the marks in order, in seconds since the start."""
        ordered = sorted(self.marks.items(), key=lambda mark: mark[1])
        return [{"mark": name, "at_seconds": round(at - self.started, 6)} for name, at in ordered]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Which migration a report is of.

    Attributes:
        hosts: names of source and destination.
        strategy: how the memory went.
    """

    container: str
    migration: str
    hosts: tuple[str, str]
    strategy: str


def one_way_seconds(round_trips: list[float]) -> float:
    """Return how long one way takes, from some round trips on an idle link."""
    return min(round_trips) / 2 if round_trips else 0.0


def build(
    timeline: Timeline,
    move: Move,
    *,
    round_trips: list[float],
    resume_seconds: float,
    transfers: Mapping[str, Bytes],
    wire_bytes: int,
) -> dict[str, Any]:
    """Return the report of a migration that ended on the destination.

    Args:
        resume_seconds: what the destination measured from COMMITTED to running.
        transfers: by kind: rootfs, memory, images.
        wire_bytes: everything sent and received, SSH's own overhead excepted.
    """
    until_said = timeline.between("freeze", "committed")
    bound = timeline.between("freeze", "active")
    one_way = one_way_seconds(round_trips)
    downtime = None if until_said is None else until_said + one_way + resume_seconds
    return {
        "container": move.container,
        "migration": move.migration,
        "source": move.hosts[0],
        "destination": move.hosts[1],
        "strategy": move.strategy,
        "downtime_seconds": _rounded(downtime),
        "downtime_at_most_seconds": _rounded(bound),
        "one_way_seconds": _rounded(one_way),
        "total_seconds": _rounded(time.monotonic() - timeline.started),
        "time_line": timeline.as_json(),
        "bytes": {kind: {"raw": size.raw, "wire": size.wire} for kind, size in transfers.items()},
        "wire_bytes": wire_bytes,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
