"""The commands of a container's life: how long each takes, and how much memory.

    python -m bench.lifecycle RUNS BUNDLE PEAK RESULT

Lives here: running the commands. Runs inside a host, so that only they are measured, and
writes JSON to RESULT, see `Measured`. PEAK is the program of peak.c.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from bench import imports

RUNTIMES = ("runc", "migrate")
# In the order of a life; `list` is of many others.
COMMANDS = ("create", "start", "exec", "state", "kill", "delete")
LIST = "list"
LISTED = 1000
MEMORY_RUNS = 3
IMPORT_RUNS = 5
SECONDS_TO_END = 10

PerCommand = dict[str, list[float]]
Run = Callable[[list[str]], float]
Life = Callable[[Sequence[str], Run], dict[str, float]]
# Each runtime's command for the state root with many containers.
Starts = dict[str, list[str]]


class Measured(TypedDict):
    """What was measured, runtime -> command -> each run; imports of `migrate` only.

    Attributes:
        seconds: how long a command took.
        peak_kib: the most memory that one process of it held.
        init_private_kib: what the first process of a created container holds for itself.
        imports: command -> module -> milliseconds.
        interpreter_seconds: the interpreter that runs nothing.
    """

    seconds: dict[str, PerCommand]
    peak_kib: dict[str, PerCommand]
    init_private_kib: dict[str, list[int]]
    imports: dict[str, dict[str, float]]
    interpreter_seconds: list[float]


def timed(argv: list[str]) -> float:
    """Run a command with its output thrown away and return how long it took."""
    started = time.perf_counter()
    quietly(argv)
    return time.perf_counter() - started


def quietly(argv: list[str]) -> None:
    """Run a command that must succeed; its output is thrown away."""
    subprocess.run(
        argv,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def peak_by(program: str) -> Run:
    """Return what runs a command and returns the most KiB it held."""

    def run(argv: list[str]) -> float:
        note = Path(f"/run/peak-{os.getpid()}")
        quietly([program, str(note), *argv])
        return float(note.read_text())

    return run


def live_once(
    start: Sequence[str],
    container: str,
    bundle: str,
    run: Run,
) -> dict[str, float]:
    """Take one container through its life and return what `run` returned of each command.

    Args:
        start: the runtime's command.
        container: its id.
        bundle: its bundle; the process must not end by itself.
        run: called with the words of each command.
    """
    arguments = {
        "create": ["--bundle", bundle, container],
        "exec": [container, "true"],
        "kill": [container, "KILL"],
    }
    found = {}
    for command in COMMANDS:
        if command == "delete":
            wait_until_stopped(start, container)
        found[command] = run([*start, command, *arguments.get(command, [container])])
    return found


def state_of(start: Sequence[str], container: str) -> dict[str, str]:
    """Return what `state` says."""
    state = subprocess.run(
        [*start, "state", container], check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return json.loads(state.stdout)  # type: ignore[no-any-return]


def wait_until_stopped(start: Sequence[str], container: str) -> None:
    """Return when the container's process is gone."""
    deadline = time.monotonic() + SECONDS_TO_END
    while state_of(start, container)["status"] != "stopped":
        if time.monotonic() > deadline:
            message = f"{container} does not end"
            raise TimeoutError(message)


def private_kib(pid: int) -> int:
    """Return the memory that is one process's alone, see proc(5), "smaps_rollup"."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB$", text, re.MULTILINE)))


@contextmanager
def many(runtime: str, bundle: str) -> Iterator[list[str]]:
    """Have a state root with many stopped containers; yields the runtime's command for it.

    One is real, the others are copies of its records under ids of their own.
    """
    root = Path(f"/run/bench-many-{runtime}")
    start, name = [runtime, "--root", str(root)], "many-0000"
    try:
        for command in (["create", "--bundle", bundle], ["start"]):
            quietly([*start, *command, name])
        quietly([*start, "kill", name, "KILL"])
        wait_until_stopped(start, name)
        records = {path.name: path.read_bytes() for path in (root / name).iterdir()}
        for number in range(1, LISTED):
            copy = f"many-{number:04}"
            (root / copy).mkdir(mode=0o711)
            for record, content in records.items():
                (root / copy / record).write_bytes(content.replace(name.encode(), copy.encode()))
            shutil.copymode(root / name, root / copy)
        yield start
    finally:
        for path in root.glob("many-*"):
            if path.name != name:
                shutil.rmtree(path)
        subprocess.run([*start, "delete", "--force", name], check=False)
        shutil.rmtree(root, ignore_errors=True)


def add(found: dict[str, PerCommand], runtime: str, values: dict[str, float]) -> None:
    """Note one value of each command."""
    for command, value in values.items():
        found[runtime].setdefault(command, []).append(value)


def time_all(runs: int, life: Life, starts: Starts) -> tuple[dict[str, PerCommand], list[float]]:
    """Return the seconds of every command, and of the interpreter that runs nothing."""
    seconds: dict[str, PerCommand] = {runtime: {} for runtime in RUNTIMES}
    bare: list[float] = []
    for run in range(-1, runs):  # the first one warms the caches and is not counted
        bare.append(timed(imports.interpreter()))
        for runtime in RUNTIMES:
            took = life([runtime], timed) | {LIST: timed([*starts[runtime], LIST])}
            if run >= 0:
                add(seconds, runtime, took)
    return seconds, bare


def weigh_all(
    runs: int, life: Life, starts: Starts, peak: Run
) -> tuple[dict[str, PerCommand], dict[str, list[int]]]:
    """Return the peak of every command, and what a container's first process has."""
    peaks: dict[str, PerCommand] = {runtime: {} for runtime in RUNTIMES}
    private: dict[str, list[int]] = {runtime: [] for runtime in RUNTIMES}
    for _ in range(runs):
        for runtime in RUNTIMES:

            def run(argv: list[str], runtime: str = runtime) -> float:
                held = peak(argv)
                if argv[1] == "create":
                    pid = int(state_of([runtime], argv[-1])["pid"])
                    private[runtime].append(private_kib(pid))
                return held

            add(peaks, runtime, life([runtime], run) | {LIST: peak([*starts[runtime], LIST])})
    return peaks, private


def measure(runs: int, bundle: str, peak: str) -> Measured:
    """Measure every runtime in turn, so that all meet the same weather."""

    def life(start: Sequence[str], run: Run) -> dict[str, float]:
        return live_once(start, f"bench-{os.getpid()}", bundle, run)

    with many("runc", bundle) as runc, many("migrate", bundle) as migrate:
        starts = {"runc": runc, "migrate": migrate}
        seconds, bare = time_all(runs, life, starts)
        peaks, private = weigh_all(min(runs, MEMORY_RUNS), life, starts, peak_by(peak))
        traced = [
            {
                **imports.of_each(lambda run: life(["migrate"], run), COMMANDS),
                **imports.of_each(lambda run: run([*migrate, LIST]), (LIST,)),
            }
            for _ in range(min(runs, IMPORT_RUNS))
        ]
    return Measured(
        seconds=seconds,
        peak_kib=peaks,
        init_private_kib=private,
        imports=imports.medians(traced),
        interpreter_seconds=bare,
    )


def main() -> None:
    """Measure, and write what was found."""
    runs, bundle, peak, result = sys.argv[1:]
    Path(result).write_text(json.dumps(measure(int(runs), bundle, peak)))


if __name__ == "__main__":
    main()
