"""`make bench`: moves and lifecycle commands, beside runc, on the same two hosts.

    python -m bench [--memory 0,256,1024] [--runs 3] [--mix mixed|random]
                    [--only moves|lifecycle] [--results bench/results]
    python -m bench --matrix [full|small] [--memory 0,256] [--runs 1] [--results …]

Writes TIME.json with every single run, and the table beside it, into the results
folder; of the matrix a chart, too, TIME.svg. A missed target is said,
not an error: numbers depend on the weather. Methods take turns, so that both meet the same weather.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cells, chart, engine, lifecycle_table, matrix, matrix_table, table
from bench.migration import Method, Mix, move_once
from tests.support.bundle import make_bundle
from tests.support.folders import CHECKOUT
from tests.support.hosts import Site
from tests.support.processes import CommandError

if TYPE_CHECKING:
    from bench.lifecycle import Measured

RESULTS = "bench/results"
MEMORIES_MIB = [0, 256, 1024]
METHODS: tuple[Method, ...] = ("script", "migrate")
MIXES = {
    "mixed": "of 4 pages one is zeros, two compress about 4:1, one is random",
    "random": "all pages are random",
}


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    version = subprocess.run(["runc", "--version"], check=True, capture_output=True, text=True)
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "runc": version.stdout.split("\n", 1)[0],
        "load": os.getloadavg()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def measure_moves(
    site: Site, memories: list[int], runs: int, mix: Mix
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Move containers of each size by each method, `runs` times."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for memory in memories:
        methods: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
        results[str(memory)] = methods
        for run in range(runs):
            for method in METHODS:
                outcome = move_once(site, method, memory, mix)
                methods[method].append(outcome.as_json())
                progress(
                    f"{memory or 'busybox'} {method} {run + 1}/{runs}:"
                    f" downtime {outcome.downtime_seconds * 1000:.0f} ms,"
                    f" in all {outcome.used.seconds:.2f} s"
                )
    return results


def measure_lifecycle(site: Site, runs: int) -> Measured:
    """Measure the commands of each runtime in host1."""
    make_bundle(site.host1.folder("/srv/lifecycle"), ["sleep", "10000"], runtime="runc")
    peak, result = "/srv/lifecycle/peak", "/srv/lifecycle.json"
    source = Path(__file__).with_name("peak.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", site.host1.folder(peak), source], check=True)
    command = [sys.executable, "-m", "bench.lifecycle", str(runs), "/srv/lifecycle", peak, result]
    site.host1.run(command, env={"PYTHONPATH": str(CHECKOUT)}, timeout_seconds=300)
    return json.loads(site.host1.folder(result).read_text())  # type: ignore[no-any-return]


def progress(text: str) -> None:
    """Say how far it is, beside the result."""
    sys.stderr.write(text + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--memory", type=sizes, help="sizes in MiB, 0 for busybox: 0,256,1024")
    parser.add_argument("--runs", type=int, help="moves of each kind: 3, of the matrix 1")
    parser.add_argument("--mix", choices=list(MIXES), default="mixed", help="contents of memory")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--only", choices=["moves", "lifecycle"])
    what.add_argument(
        "--matrix",
        nargs="?",
        choices=["full", "small"],
        const="full",
        help="memory, writes, link and method; small: what the goals are judged by",
    )
    parser.add_argument("--results", type=Path, default=Path(RESULTS), help="folder to write to")
    options = parser.parse_args()
    if options.runs is None:
        options.runs = 1 if options.matrix else 3
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: at least 1 is measured")
    if options.matrix == "small" and options.memory:
        parser.error("--memory: the small matrix has sizes of its own; leave it out")
    return options


def sizes(text: str) -> list[int]:
    """Return the sizes of a list as `0,256`.

    Raises:
        argparse.ArgumentTypeError: it is not written so.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        message = f"{text!r} is not a list of sizes in MiB, write it as 0,256,1024"
        raise argparse.ArgumentTypeError(message)
    return [int(part) for part in parts]


def main() -> int:
    """Measure, write the results, print the table; 0 when everything could be measured."""
    options = arguments()
    if options.matrix:
        return measure_matrix(options)
    result: dict[str, Any] = {"machine": machine(), "mix": options.mix}
    try:
        if options.only != "moves":
            progress("podman run")
            result["podman"] = engine.measure(3 * options.runs, options.runs)
        with Site() as site:
            if options.only != "moves":
                progress("the commands of a container's life")
                result["lifecycle"] = measure_lifecycle(site, 10 * options.runs)
            if options.only != "lifecycle":
                memories = options.memory or MEMORIES_MIB
                result["moves"] = measure_moves(site, memories, options.runs, options.mix)
    except (CommandError, TimeoutError) as problem:
        progress(str(problem))
        return 1
    except KeyboardInterrupt:
        return 130
    write(options.results, result, render(result))
    return 0


def measure_matrix(options: argparse.Namespace) -> int:
    """Do the same for the matrix; what was measured before it ended early is written, too."""
    plan = (
        cells.small()
        if options.matrix == "small"
        else cells.full(options.memory or cells.MEMORIES_MIB)
    )
    measured = matrix.planned(plan)
    result = {"machine": machine(), "mix": options.mix, "matrix": measured}
    status = 0
    try:
        with Site() as site:
            matrix.measure(site, measured, options.runs, options.mix, progress)
    except (CommandError, TimeoutError) as problem:
        progress(str(problem))
        status = 1
    except KeyboardInterrupt:
        status = 130
    write(options.results, result, render_matrix(result), chart.draw(plan, where(result)))
    if any(cell["left_out"] for cell in plan) or measured["failed"]:
        status = status or 1
    return status


def write(folder: Path, result: dict[str, Any], text: str, picture: str = "") -> None:
    """Write the results, and print the text."""
    folder.mkdir(parents=True, exist_ok=True)
    name = result["machine"]["at"].replace(":", "")
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{name}.txt").write_text(text)
    sys.stdout.write(text)
    sys.stdout.write(f"\nevery run: {folder}/{name}.json\n")
    if picture:
        (folder / f"{name}.svg").write_text(picture)
        sys.stdout.write(f"chart: {folder}/{name}.svg\n")


def where(result: dict[str, Any]) -> str:
    """Return in one line when and on what it was measured."""
    on = result["machine"]
    place = f"kernel {on['kernel']}, {on['processors']} processors, load {on['load']:.1f}"
    return f"{on['at']}, {place}, {on['runc']}"


def render_matrix(result: dict[str, Any]) -> str:
    """Return the report of the matrix as text."""
    lines = [
        f"{where(result)}; medians",
        "",
        "Moved from host1 to host2 on one machine by `migrate live`, each strategy, and by a",
        "script of `runc checkpoint`, `tar | zstd -1 | ssh`, `runc restore` with images in memory.",
        f"Memory: {MIXES[result['mix']]}. Busy: {cells.BUSY_PAGES} pages",
        "written at each tick of about a millisecond. Downtime: largest gap between two ticks.",
        "Processor and peak memory: both hosts. Rates of links: by tbf, each direction.",
        "",
        *matrix_table.rows(result["matrix"]["cells"]),
        "",
        *matrix_table.verdicts(result["matrix"]),
    ]
    return "\n".join(lines) + "\n"


def render(result: dict[str, Any]) -> str:
    """Return the whole report as text."""
    lines = [f"{where(result)}; medians", ""]
    if "moves" in result:
        lines += [
            "Moved from host1 to host2 on one machine by `migrate live`, and by a script of",
            "`runc checkpoint`, `tar | zstd -1 | ssh`, `runc restore` with images in memory.",
            f"Memory: {MIXES[result['mix']]}. Downtime: largest gap in the",
            "container's own millisecond heartbeat. Processor and peak memory: both hosts.",
            "",
            *table.moves(result["moves"]),
            "",
        ]
    if "lifecycle" in result:
        lines += [
            "The commands of a container's life",
            "",
            *lifecycle_table.lifecycle(result["lifecycle"]),
            "",
            *lifecycle_table.podman(result["podman"]),
            "",
        ]
    lines += table.verdicts(result.get("moves", {}))
    if "lifecycle" in result:
        lines += lifecycle_table.verdicts(result["lifecycle"])
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
