"""The matrix: memory, writes, link and method, each cell beside the script's.

Lives here: going through the cells, and what belongs to them: CRIU alone, and the link
beside `cat | ssh`. Must not live here: which cells there are (`cells`), showing
(`matrix_table`, `chart`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from bench import raw_criu
from bench.cells import LINKS, Cell, Measured, lack_of_room
from bench.link_rate import limited
from bench.migration import Mix, move_once
from tests.support.folders import CHECKOUT
from tests.support.processes import CommandError

if TYPE_CHECKING:
    from tests.support.hosts import Site

Say = Callable[[str], None]

LINK_MIB = 512
FEWEST_RUNS = 3
FILE, RESULT = "/run/bench-file", "/run/bench-throughput.json"


class Matrix(TypedDict):
    """Everything that was measured.

    Attributes:
        cells: in the order of the plan.
        raw_criu: dumps and restores by CRIU alone.
        throughput: way -> bytes a second of each run.
        failed: why one of the last two is not there.
    """

    cells: list[Measured]
    raw_criu: list[raw_criu.Raw]
    throughput: dict[str, list[float]]
    failed: dict[str, str]


def planned(cells: list[Measured]) -> Matrix:
    """Return a matrix of which nothing is measured yet."""
    return {"cells": cells, "raw_criu": [], "throughput": {}, "failed": {}}


def measure(site: Site, matrix: Matrix, runs: int, mix: Mix, say: Say) -> None:
    """Fill the matrix in; what cannot be measured says why in its place.

    Methods take turns, so that all meet the same weather. An interruption leaves what was
    measured until then.
    """
    few = max(runs, FEWEST_RUNS)
    say(f"CRIU alone, {few} times")
    with _noting(matrix, "raw_criu", say):
        matrix["raw_criu"] = raw_criu.measure(site, few)
    say(f"{LINK_MIB} MiB over the link, {few} times each way")
    with _noting(matrix, "throughput", say):
        matrix["throughput"] = throughput(site, LINK_MIB, few)
    for link in LINKS:
        cells = [cell for cell in matrix["cells"] if cell["link"] == link]
        with limited([site.host1, site.host2], link):
            for run in range(runs):
                for cell in cells:
                    _fill_in(site, cell, mix, say, f"{run + 1}/{runs}")


@contextmanager
def _noting(matrix: Matrix, what: str, say: Say) -> Iterator[None]:
    """Note a failure of the block instead of ending the whole measurement by it."""
    try:
        yield
    except (CommandError, TimeoutError) as problem:
        matrix["failed"][what] = _last_line(problem)
        say(str(problem))


def _last_line(problem: BaseException) -> str:
    """Return what a program said last, which is what it failed of."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[-1]


def _fill_in(site: Site, cell: Measured, mix: Mix, say: Say, turn: str) -> None:
    """Measure a cell once more, unless it failed before."""
    name = (
        Cell(
            memory_mib=cell["memory_mib"], dirty_pages=cell["dirty_pages"], method=cell["method"]
        ).load
        + f", {cell['link']}, {cell['method']} {turn}"
    )
    if turn.startswith("1/"):
        cell["left_out"] = lack_of_room(cell["memory_mib"], available_mib())
    if cell["left_out"]:
        say(f"{name}: left out: {cell['left_out']}")
        return
    try:
        outcome = move_once(site, cell["method"], cell["memory_mib"], mix, cell["dirty_pages"])
    except (CommandError, TimeoutError) as problem:
        cell["left_out"] = "failed: " + _last_line(problem)
        say(f"{name}: {problem}")
        return
    except KeyboardInterrupt:
        cell["left_out"] = "interrupted"
        raise
    cell["runs"].append(outcome.as_json())
    say(
        f"{name}: downtime {outcome.downtime_seconds * 1000:.0f} ms,"
        f" in all {outcome.used.seconds:.2f} s"
    )


def available_mib() -> int:
    """Return how much memory this machine can give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("MemAvailable:")]
    return int(line.split()[1]) // 1024


def throughput(site: Site, mib: int, runs: int) -> dict[str, list[float]]:
    """Return bytes a second from host1 to host2, each way, of data nobody can compress.

    Raises:
        CommandError: a way failed, or lost something.
    """
    host = site.host1
    command: Sequence[str] = (
        *(sys.executable, "-m", "bench.throughput"),
        *(FILE, "host2", str(runs), RESULT),
    )
    try:
        host.run(["dd", "if=/dev/urandom", f"of={FILE}", "bs=1M", f"count={mib}"])
        host.run(command, env={"PYTHONPATH": str(CHECKOUT)}, timeout_seconds=600)
        seconds = json.loads(host.folder(RESULT).read_text())
    finally:
        host.run(["rm", "-f", FILE, RESULT])
    return {way: [mib * (1 << 20) / took for took in each] for way, each in seconds.items()}
