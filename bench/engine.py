"""`podman run`, with each runtime in turn: how long it takes, and how much memory.

Lives here: measuring. Needs a host of its own, as the tests of engines have.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from bench.meters import memory_bytes
from tests.engines.place import engine_host, image_tree
from tests.engines.podman import IMAGE, Podman
from tests.support.folders import CHECKOUT
from tests.support.hosts import wait_until

RUNTIMES = {"runc": shutil.which("runc") or "runc", "migrate": f"{CHECKOUT}/.venv/bin/migrate"}
RUN = ("run", "--rm", IMAGE, "true")
LOOK_SECONDS = 0.005

Runs = dict[str, list[float]]


def _settle(podman: Podman) -> None:
    """Wait until podman's own clean-up is over."""
    wait_until(lambda: not podman.says("ps", "--all", "--quiet"), "the container is removed")


def _seconds(podman: Podman) -> float:
    started = time.perf_counter()
    podman(*RUN)
    took = time.perf_counter() - started
    _settle(podman)
    return took


def _peak_kib(podman: Podman) -> float:
    """Return the most that the host held beyond what it holds without a container."""
    before = most = memory_bytes(podman.host)
    with podman.host.popen(["podman", *RUN], env=podman.environment) as process:
        while process.poll() is None:
            most = max(most, memory_bytes(podman.host))
            time.sleep(LOOK_SECONDS)
    _settle(podman)
    return (most - before) / 1024


def measure(runs: int, memory_runs: int) -> dict[str, dict[str, Runs]]:
    """Return seconds and KiB of every run, in the shape of `bench.lifecycle.Measured`."""
    seconds: dict[str, Runs] = {runtime: {"podman run": []} for runtime in RUNTIMES}
    peaks: dict[str, Runs] = {runtime: {"podman run": []} for runtime in RUNTIMES}
    with (
        tempfile.TemporaryDirectory(prefix="migrate-bench-") as scratch,
        engine_host(Path(scratch)) as host,
    ):
        image = image_tree(Path(scratch))
        podmans = {
            runtime: Podman(host, Path(scratch) / f"podman-{runtime}", path)
            for runtime, path in RUNTIMES.items()
        }
        for podman in podmans.values():
            podman("import", "--quiet", image, IMAGE)
            _seconds(podman)
        for _ in range(runs):
            for runtime, podman in podmans.items():
                seconds[runtime]["podman run"].append(_seconds(podman))
        for _ in range(memory_runs):
            for runtime, podman in podmans.items():
                peaks[runtime]["podman run"].append(_peak_kib(podman))
    return {"seconds": seconds, "peak_kib": peaks}
