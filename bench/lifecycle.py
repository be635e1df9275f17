"""The five commands of a container's life, timed one by one.

    python -m bench.lifecycle RUNS BUNDLE RESULT

Runs inside a host, so that only the commands are measured, and writes JSON to RESULT:
runtime -> command -> list of seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RUNTIMES = ("runc", "migrate")
COMMANDS = ("create", "start", "state", "kill", "delete")


def _timed(argv: list[str]) -> float:
    """Run a command with its output thrown away and return how long it took."""
    started = time.perf_counter()
    subprocess.run(
        argv,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def live_once(runtime: str, container: str, bundle: str) -> dict[str, float]:
    """Take one container through its life and return the seconds of each command."""
    arguments = {"create": ["--bundle", bundle, container], "kill": [container, "KILL"]}
    took = {}
    for command in COMMANDS:
        if command == "delete":
            _wait_until_stopped(runtime, container)
        took[command] = _timed([runtime, command, *arguments.get(command, [container])])
    return took


def _wait_until_stopped(runtime: str, container: str) -> None:
    while True:
        state = subprocess.run(
            [runtime, "state", container], check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
        if json.loads(state.stdout)["status"] == "stopped":
            return


def main() -> None:
    """Time every runtime in turn, so that both meet the same weather."""
    runs, bundle = int(sys.argv[1]), sys.argv[2]
    seconds: dict[str, dict[str, list[float]]] = {
        runtime: {command: [] for command in COMMANDS} for runtime in RUNTIMES
    }
    for run in range(-1, runs):  # the first one warms the caches and is not counted
        for runtime in RUNTIMES:
            took = live_once(runtime, f"bench-{runtime}-{os.getpid()}", bundle)
            if run >= 0:
                for command, one in took.items():
                    seconds[runtime][command].append(one)
    Path(sys.argv[3]).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
