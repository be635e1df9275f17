"""`migrate events`: a container's counters as JSON, one object a line."""

from __future__ import annotations

import sys

from migrate.errors import UsageError
from migrate.runtime import events, jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Print them once, or until the container ends."""
    interval_seconds = call.seconds("interval")
    if interval_seconds <= 0:
        raise UsageError("duration interval must be greater than 0", "Write 5s, for instance.")
    record = call.store.load(call.id)
    if call.has("stats"):
        _print(events.counters(record))
        return 0
    for event in events.follow(record, interval_seconds):
        _print(event)
    return 0


def _print(event: dict[str, Any]) -> None:
    """Print one at once: whoever reads waits for it."""
    sys.stdout.write(jsontext.dumps(event) + "\n")
    sys.stdout.flush()
