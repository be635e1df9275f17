"""`make bench`: moves and lifecycle commands, beside runc, on the same two hosts.

    python -m bench [--memory 0,256,1024] [--runs 3] [--mix mixed|random]
                    [--only moves|lifecycle] [--results bench/results]

Writes TIME.json with every single run, and the table beside it, into the results
folder. A missed target is said, not an error: numbers depend on the weather.
Methods take turns, so that both meet the same weather.
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

from bench import engine, lifecycle_table, table
from bench.migration import Method, Mix, move_once
from tests.support.bundle import make_bundle
from tests.support.folders import CHECKOUT
from tests.support.hosts import Site
from tests.support.processes import CommandError

if TYPE_CHECKING:
    from bench.lifecycle import Measured

RESULTS = "bench/results"
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
    parser.add_argument("--memory", default="0,256,1024", help="sizes in MiB, 0 for busybox alone")
    parser.add_argument("--runs", type=int, default=3, help="moves of each size by each method")
    parser.add_argument("--mix", choices=list(MIXES), default="mixed", help="contents of memory")
    parser.add_argument("--only", choices=["moves", "lifecycle"])
    parser.add_argument("--results", type=Path, default=Path(RESULTS), help="folder to write to")
    return parser.parse_args()


def main() -> int:
    """Measure, write the results, print the table; 0 when everything could be measured."""
    options = arguments()
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
                memories = [int(one) for one in options.memory.split(",")]
                result["moves"] = measure_moves(site, memories, options.runs, options.mix)
    except (CommandError, TimeoutError) as problem:
        progress(str(problem))
        return 1
    except KeyboardInterrupt:
        return 130
    text = render(result)
    options.results.mkdir(parents=True, exist_ok=True)
    name = result["machine"]["at"].replace(":", "")
    (options.results / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.results / f"{name}.txt").write_text(text)
    sys.stdout.write(text)
    sys.stdout.write(f"\nevery run: {options.results}/{name}.json\n")
    return 0


def render(result: dict[str, Any]) -> str:
    """Return the whole report as text."""
    on = result["machine"]
    where = f"kernel {on['kernel']}, {on['processors']} processors, load {on['load']:.1f}"
    lines = [f"{on['at']}, {where}, {on['runc']}; medians", ""]
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
