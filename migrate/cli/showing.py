"""How a migration is shown: on a terminal, in a pipe, or to a program.

Lives here: three sinks for `migrate.events`, and the report's layout. Must not live
here: measuring (`live.report`). Imported by `live_cmd` and `recover_cmd` only.

    terminal    a moving line for what is under way, a line for what is done  (rich)
    pipe        a line for what is done
    --json      each event as an object, one a line, on standard output

People's lines go to standard error, but the report, which is the answer, to standard
output.
"""

from __future__ import annotations

import contextlib
import json as json_format
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from migrate.cli.reporting import readable
from migrate.events import (
    Event,
    Finding,
    Foretold,
    Log,
    PhaseEntered,
    Progress,
    Report,
    Sink,
    as_json,
    install,
)

if TYPE_CHECKING:
    from typing import Any

_BAR_CELLS = 40
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_VERDICTS = {"ok": "ok", "warn": "note", "refuse": "refused"}


@contextlib.contextmanager
def showing(*, json: bool) -> Iterator[None]:
    """Show what happens inside the block, in the way that fits where output goes."""
    with contextlib.ExitStack() as stack:
        sink: Sink
        if json:
            sink = print_json
        elif sys.stderr.isatty():
            sink = _terminal(stack)
        else:
            sink = _Plain(time.monotonic()).show
        before = install(sink)
        stack.callback(install, before)
        yield


def print_json(event: Event) -> None:
    """Print an event as one line."""
    sys.stdout.write(json_format.dumps(as_json(event), separators=(",", ":")) + "\n")
    sys.stdout.flush()


class _Plain:
    """Lines for a pipe or a file; progress is left out."""

    def __init__(self, started: float) -> None:
        self._started = started

    def show(self, event: Event) -> None:
        """Print an event that people want to read."""
        if isinstance(event, Report):
            sys.stdout.write(report_text(event.report))
            sys.stdout.flush()
            return
        if isinstance(event, Foretold):
            sys.stdout.write(foretold_text(event))
            sys.stdout.flush()
            return
        words = line_of(event)
        if words:
            sys.stderr.write(f"{time.monotonic() - self._started:7.3f} s  {words}\n")
            sys.stderr.flush()


def line_of(event: Event) -> str:
    """Return an event as a line for people, "" for one that is not for them."""
    if isinstance(event, PhaseEntered):
        where = f" ({event.host})" if event.host else ""
        return f"{event.side}{where}: {event.phase}"
    if isinstance(event, Finding):
        if event.verdict == "ok":
            return ""
        hint = f" ({event.hint})" if event.hint else ""
        return f"{_VERDICTS[event.verdict]}: {readable(event.message + hint)}"
    if isinstance(event, Log) and event.level != "debug":
        prefix = "" if event.level == "info" else f"{event.level}: "
        return f"{prefix}{readable(event.message)}"
    return ""


def _terminal(stack: contextlib.ExitStack) -> Sink:
    """Return a sink that draws on the terminal until the stack unwinds."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    bars = stack.enter_context(
        Bars(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
    )
    plain = _Plain(time.monotonic())
    tasks: dict[str, Any] = {}

    def show(event: Event) -> None:
        if isinstance(event, Progress):
            if event.step not in tasks:
                tasks[event.step] = bars.add_task(event.step, total=event.total_bytes)
            bars.update(tasks[event.step], completed=event.done_bytes, total=event.total_bytes)
        elif isinstance(event, Report | Foretold):
            bars.stop()
            plain.show(event)
        elif words := line_of(event):
            bars.console.print(words, markup=False)

    return show


def report_text(report: dict[str, Any]) -> str:
    """Return a report as people read it."""
    hosts = f"from {report['source']} to {report['destination']}"
    lines = [f"{report['container']} moved {hosts} by {report['strategy']}", ""]
    lines += [*_time_line(report["time_line"]), ""]
    downtime, bound = report["downtime_seconds"], report["downtime_at_most_seconds"]
    if downtime is not None and bound is not None:
        lines.append(f"  downtime   {_milliseconds(downtime)}, at most {_milliseconds(bound)}")
    lines.append(f"  in all     {report['total_seconds']:.2f} s")
    for kind, size in report["bytes"].items():
        lines.append(f"  {kind:<9}  {_size(size['raw'])}, {_size(size['wire'])} on the wire")
    lines.append(f"  in all     {_size(report['wire_bytes'])} on the wire")
    return "\n".join(lines) + "\n"


def foretold_text(event: Foretold) -> str:
    """Return what a migration would be like as people read it."""
    written = _size(event.written_bytes_per_second)
    lines = [
        f"{event.container} would move to {event.destination} by {event.strategy}",
        "",
        f"  memory     {_size(event.memory_bytes)}, {written}/s written",
        f"  files      {_size(event.files_bytes)}",
        f"  link       {_size(event.link_bytes_per_second)}/s, before compression",
        f"  downtime   about {_milliseconds(event.downtime_seconds)}",
        f"  in all     about {event.total_seconds:.2f} s",
    ]
    if event.passes:
        lines.insert(5, f"  passes     {event.passes} while it runs")
    return "\n".join(lines) + "\n"


def _time_line(marks: list[dict[str, Any]]) -> list[str]:
    """Return one line a mark: its name, when it was reached, a bar from the one before."""
    if not marks:
        return []
    end = marks[-1]["at_seconds"] or 1.0
    lines = []
    before = 0.0
    for mark in marks:
        at = mark["at_seconds"]
        first = round(before / end * _BAR_CELLS)
        last = max(first + 1, round(at / end * _BAR_CELLS))
        bar = " " * first + "=" * (last - first)
        lines.append(f"  {mark['mark']:<12} {at:8.3f} s  |{bar:<{_BAR_CELLS + 1}}|")
        before = at
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _size(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
