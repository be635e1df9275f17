"""Medians, ratios and the table of moves.

Lives here: turning measured numbers into text. Must not live here: measuring, the
commands of a life (`lifecycle_table`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

MIB = 1 << 20

# What is shown of a move: title, field, how to write it.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("downtime", "downtime_seconds", lambda value: f"{value * 1000:.0f} ms"),
    ("in all", "seconds", lambda value: f"{value:.2f} s"),
    ("on the wire", "wire_bytes", lambda value: f"{value / MIB:.1f} MiB"),
    ("processor", "cpu_seconds", lambda value: f"{value:.2f} s"),
    ("peak memory", "peak_bytes", lambda value: f"{value / MIB:.0f} MiB"),
)

# What is to be reached: (memory, field) -> at most this share of the script's.
TARGETS = {
    (0, "downtime_seconds"): 0.2,
    (1024, "downtime_seconds"): 0.5,
    (1024, "seconds"): 0.5,
}


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the median of every field that is shown."""
    return {field: median(run[field] for run in runs) for _, field, _ in COLUMNS}


def ratio(mine: float, other: float) -> float:
    """Return how much of the other's mine is; no number where there is nothing to divide by."""
    return mine / other if other > 0 else float("nan")


def layout(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def moves(results: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """Return the table of moves.

    Args:
        results: memory in MiB as text -> method -> runs.
    """
    rows = [["", *(title for title, _, _ in COLUMNS)]]
    for memory, methods in results.items():
        name = f"{memory} MiB" if int(memory) else "busybox"
        middle = {method: medians(runs) for method, runs in methods.items()}
        for method, values in middle.items():
            label = "migrate live" if method == "migrate" else "runc script"
            rows.append([f"{name}, {label}", *(show(values[field]) for _, field, show in COLUMNS)])
        if len(middle) > 1:
            shares = (
                f"{ratio(middle['migrate'][field], middle['script'][field]):.2f}"
                for _, field, _ in COLUMNS
            )
            rows.append([f"{name}, ratio", *shares])
    return layout(rows)


def verdicts(results: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """Return one line for each target: reached or missed, and by how much."""
    titles = {field: title for title, field, _ in COLUMNS}
    lines = []
    for (memory, field), target in TARGETS.items():
        methods = results.get(str(memory), {})
        if len(methods) > 1:
            share = ratio(medians(methods["migrate"])[field], medians(methods["script"])[field])
            name = f"{memory} MiB" if memory else "busybox"
            said = f"{share:.2f} of runc's, at most {target:g} wanted"
            lines.append(verdict(f"{name}, {titles[field]}", said, reached=share <= target))
    return lines


def verdict(name: str, said: str, *, reached: bool) -> str:
    """Return the line about one target."""
    word = "reached" if reached else "MISSED"
    return f"{word:8} {name}: {said}"
