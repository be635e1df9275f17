"""How several migrations at once are shown.

Lives here: the sinks of `migrate drain`, and its table. Must not live here: how one
migration is shown (`showing`). Imported by `drain_cmd` only.

    people      a line on standard error as each begins or ends, a table on standard
                output at the end
    --json      each event as an object, one a line, on standard output
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from migrate.cli.reporting import readable
from migrate.cli.showing import line_of, print_json
from migrate.events import Departed, Drained, Event, Log, Placed, Relayed, install

_HEADING = ("CONTAINER", "TO", "DOWNTIME", "TOTAL", "RESULT")
_PADDING = 3
# Of each migration people are told where it stands still, and where it goes on.
_PHASES = ("FROZEN",)


@contextlib.contextmanager
def showing_many(*, json: bool) -> Iterator[None]:
    """Show what happens inside the block."""
    before = install(print_json if json else _Lines(time.monotonic()).show)
    try:
        yield
    finally:
        install(before)


class _Lines:
    """What people read."""

    def __init__(self, started: float) -> None:
        self._started = started

    def show(self, event: Event) -> None:
        """Print an event that people want to read."""
        if isinstance(event, Drained):
            sys.stdout.write(table(event))
            sys.stdout.flush()
            return
        words = self._words(event)
        if words:
            sys.stderr.write(f"{time.monotonic() - self._started:7.3f} s  {words}\n")
            sys.stderr.flush()

    def _words(self, event: Event) -> str:
        if isinstance(event, Placed):
            return f"{event.container}: goes to {event.destination}" if event.destination else ""
        if isinstance(event, Departed):
            stood = event.downtime_seconds
            still = "" if stood is None else f", stood still {stood * 1000:.0f} ms"
            return f"{event.container}: {result_text(event)}{still}"
        if isinstance(event, Relayed) and event.happened.get("phase") in _PHASES:
            return f"{event.container}: stands still"
        return line_of(event) if isinstance(event, Log) else ""


def result_text(departed: Departed) -> str:
    """Return how one ended, in words."""
    if not departed.reason:
        return departed.result
    hint = f" ({readable(departed.hint)})" if departed.hint else ""
    return f"{departed.result}: {readable(departed.reason)}{hint}"


def table(drained: Drained) -> str:
    """Return how each container fared, and the sum."""
    if not drained.departed:
        return "nothing runs here\n"
    rows = [
        _HEADING,
        *(
            (
                each.container,
                each.destination or "-",
                _seconds(each.downtime_seconds, 1000, "ms"),
                _seconds(each.total_seconds, 1, "s"),
                result_text(each),
            )
            for each in sorted(drained.departed, key=lambda each: each.container)
        ),
    ]
    widths = [max(len(row[at]) for row in rows) + _PADDING for at in range(len(_HEADING) - 1)]
    lines = [
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)) + row[-1]
        for row in rows
    ]
    moved = sum(each.result == "moved" for each in drained.departed)
    count = len(drained.departed)
    sum_line = f"{moved} of {count} moved in {drained.total_seconds:.1f} s"
    return "\n".join([*lines, "", sum_line]) + "\n"


def _seconds(value: float | None, factor: float, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value * factor:.0f} {unit}" if unit == "ms" else f"{value:.2f} {unit}"
