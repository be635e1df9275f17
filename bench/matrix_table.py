"""The table of the matrix, and what was wanted of it.

Lives here: turning `matrix.Matrix` into text. Must not live here: measuring, drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from bench.cells import METHODS, Cell, Measured, find, middle
from bench.table import COLUMNS, layout, ratio

if TYPE_CHECKING:
    from bench.matrix import Matrix

THROUGHPUT_AT_LEAST = 0.9
RAW_AT_MOST = 1.5
# A container without memory is moved so where nobody names a strategy.
EMPTY = Cell(memory_mib=0, method="stop-copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A share that is to be reached.

    Attributes:
        name: of what.
        mine: the cell that is judged.
        other: the one it is judged by.
        field: of both.
        at_most: this share of the other's.
    """

    name: str
    mine: Cell
    other: Cell
    field: str = "downtime_seconds"
    at_most: float


def _beside_script(name: str, cell: Cell, at_most: float, field: str = "downtime_seconds") -> Goal:
    other = replace(cell, method="script")
    return Goal(name=name, mine=cell, other=other, field=field, at_most=at_most)


_GIBIBYTE = Cell(memory_mib=1024, method="pre-copy")
GOALS = (
    _beside_script("busybox, downtime", EMPTY, 1 / 8),
    _beside_script("1 GiB, downtime", _GIBIBYTE, 1 / 25),
    _beside_script("1 GiB, in all", _GIBIBYTE, 0.8, "seconds"),
    _beside_script(
        "1 GiB busy, downtime", replace(_GIBIBYTE, dirty_pages=5, method="hybrid"), 1 / 15
    ),
    _beside_script(
        "1 GiB over 100 Mbit/s, downtime", replace(_GIBIBYTE, link="100 Mbit/s"), 1 / 100
    ),
    Goal(
        name="downtime at 4 GiB beside 256 MiB",
        mine=Cell(memory_mib=4096, method="hybrid"),
        other=Cell(memory_mib=256, method="hybrid"),
        at_most=1.5,
    ),
)


def _line(word: str, name: str, said: str) -> str:
    return f"{word:8} {name}: {said}"


def _whose(goal: Goal) -> str:
    return "the script's" if goal.other.method == "script" else "that"


def _share(cells: Sequence[Measured], goal: Goal) -> float | None:
    values = [middle(find(cells, cell), goal.field) for cell in (goal.mine, goal.other)]
    if values[0] is None or values[1] is None:
        return None
    return ratio(values[0], values[1])


def _missing(cells: Sequence[Measured], goal: Goal) -> str:
    """Return which cell was not measured, and why."""
    for cell in (goal.mine, goal.other):
        measured = find(cells, cell)
        if measured is None or not measured["runs"]:
            why = measured["left_out"] if measured else "not in this run's plan"
            return f"{cell.load}, {cell.link}, {cell.method}: {why}"
    return ""


def judge(cells: Sequence[Measured], goal: Goal) -> str:
    """Return the line about one goal.

    A method that does not exist reaches and misses nothing; where the other methods' nearest
    was measured, it is said beside it.
    """
    wanted = f"at most {goal.at_most:.3g} wanted"
    if goal.mine.method not in METHODS:
        said = f"{goal.mine.method} does not exist yet, {wanted}"
        stand_in = replace(
            goal,
            mine=replace(goal.mine, method="pre-copy"),
            other=goal.other
            if goal.other.method in METHODS
            else replace(goal.other, method="pre-copy"),
        )
        share = _share(cells, stand_in)
        if share is not None:
            said += f"; pre-copy: {share:.3g} of {_whose(goal)}"
        return _line("absent", goal.name, said)
    share = _share(cells, goal)
    if share is None:
        return _line("unknown", goal.name, f"{wanted}; {_missing(cells, goal)}")
    word = "reached" if share <= goal.at_most else "MISSED"
    return _line(word, goal.name, f"{share:.3g} of {_whose(goal)} by {goal.mine.method}, {wanted}")


def judge_raw(matrix: Matrix) -> str:
    """Return the line about the downtime beside what CRIU alone takes."""
    name = "busybox, downtime beside CRIU alone"
    mine = middle(find(matrix["cells"], EMPTY), "downtime_seconds")
    wanted = f"at most {RAW_AT_MOST:g} wanted"
    if mine is None or not matrix["raw_criu"]:
        why = matrix["failed"].get("raw_criu", "not measured")
        return _line("unknown", name, f"{wanted}; {why}")
    frozen = median(run["frozen_seconds"] for run in matrix["raw_criu"])
    restore = median(run["restore_seconds"] for run in matrix["raw_criu"])
    share = ratio(mine, frozen + restore)
    said = (
        f"{share:.3g} of {frozen * 1000:.0f} ms frozen by `criu dump` and"
        f" {restore * 1000:.0f} ms of `criu restore`, {wanted}"
    )
    return _line("reached" if share <= RAW_AT_MOST else "MISSED", name, said)


def judge_throughput(matrix: Matrix) -> list[str]:
    """Return a line for each way over the link, beside the one by hand."""
    rates = {way: median(each) for way, each in matrix["throughput"].items()}
    wanted = f"at least {THROUGHPUT_AT_LEAST:g} wanted"
    if not rates:
        why = matrix["failed"].get("throughput", "not measured")
        return [_line("unknown", "throughput of the link", f"{wanted}; {why}")]
    (by_hand, cat), *ways = rates.items()
    lines = []
    for way, rate in ways:
        share = ratio(rate, cat)
        said = f"{rate / 1e6:.0f} MB/s, {share:.2f} of the {cat / 1e6:.0f} of `{by_hand}`, {wanted}"
        word = "reached" if share >= THROUGHPUT_AT_LEAST else "MISSED"
        lines.append(_line(word, f"throughput by {way}", said))
    return lines


def verdicts(matrix: Matrix) -> list[str]:
    """Return a line for each goal."""
    return [
        *(judge(matrix["cells"], goal) for goal in GOALS),
        judge_raw(matrix),
        *judge_throughput(matrix),
    ]


def rows(cells: Sequence[Measured]) -> list[str]:
    """Return the table, a row a cell; one that was not measured says why."""
    header = ["link", "load", "method", *(title for title, _, _ in COLUMNS)]
    table = [header]
    reasons = []
    for each in cells:
        cell = Cell(
            memory_mib=each["memory_mib"],
            dirty_pages=each["dirty_pages"],
            link=each["link"],
            method=each["method"],
        )
        shown = [
            "-" if (value := middle(each, field)) is None else show(value)
            for _, field, show in COLUMNS
        ]
        table.append([cell.link, cell.load, cell.method, *shown])
        if each["left_out"]:
            name = f"{cell.link}, {cell.load}, {cell.method}"
            reasons.append(f"left out after {len(each['runs'])} runs: {name}: {each['left_out']}")
    return [*layout(table), *([""] if reasons else []), *reasons]
