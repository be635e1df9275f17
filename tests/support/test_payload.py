"""The payload and the bundles it runs in, under runc, so that no fault is ours alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import payload
from tests.support.bundle import make_bundle
from tests.support.folders import CHECKOUT
from tests.support.hosts import Site, wait_until


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the payload here, with a status file."""
    status = folder / "status"
    command = [str(payload.binary()), "--status", str(status), *options]
    with subprocess.Popen(command) as process:
        try:
            yield process, status
        finally:
            process.kill()


def read(path: Path) -> payload.Status:
    status: payload.Status = wait_until(lambda: payload.Status.read(path), "a status line")
    return status


def test_the_largest_gap_is_the_time_it_was_stopped(tmp_path: Path) -> None:
    with running(tmp_path) as (process, status):
        wait_until(lambda: read(status).ticks > 100, "it ticks")
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGSTOP)
        subprocess.run(["sleep", "0.3"], check=True)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: read(status).largest_gap_us > 290_000, "the gap is reported")


@pytest.mark.parametrize("mix", ["mixed", "random"])
def test_memory_that_was_dirtied_by_itself_is_intact(mix: str, tmp_path: Path) -> None:
    options = ("--memory", "8", "--mix", mix, "--dirty", "20")
    with running(tmp_path, *options) as (process, status):
        wait_until(lambda: read(status).ticks > 50, "it ticks")
        process.send_signal(signal.SIGUSR2)
        wait_until(lambda: read(status).memory == "intact", "the memory is checked")


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    with running(tmp_path, "--memory", "8", "--mix", "random") as (process, status):
        wait_until(lambda: read(status).ticks > 50, "it ticks")
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        sizes = {line.split("-")[0]: line for line in maps}
        start = next(
            int(start, 16)
            for start, line in sizes.items()
            if int(line.split()[0].split("-")[1], 16) - int(start, 16) >= 8 << 20
        )
        with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start + 5000)
            byte = memory.read(1)[0]
            memory.seek(start + 5000)
            memory.write(bytes([byte ^ 1]))
        process.send_signal(signal.SIGUSR2)
        wait_until(lambda: read(status).memory == "damaged", "the memory is checked")


def test_a_log_with_a_repeat_or_a_gap_is_not_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for text, whole in (("1\n2\n3\n", True), ("1\n2\n2\n", False), ("1\n3\n", False)):
        log.write_text(text)
        assert payload.log_is_whole(log) is whole


def test_a_container_is_served_over_the_wire_without_a_gap(hosts: Site) -> None:
    host, client = hosts.host1, hosts.client
    network = host.add_network("payload", "10.77.0.61")
    bundle = make_bundle(
        host.folder("/srv/payload"),
        ["payload", "--status", "/status", "--log", "/log", "--port", "7000"],
        network=network,
        runtime="runc",
    )
    host.run(["runc", "run", "-d", "--bundle", "/srv/payload", "support-payload"])
    try:
        report = client.folder("/srv/report")
        command = [sys.executable, "-m", "tests.support.connection", "10.77.0.61", "7000"]
        with client.popen([*command, "/srv/report"], env={"PYTHONPATH": str(CHECKOUT)}) as watcher:
            wait_until(
                lambda: report.exists() and json.loads(report.read_text())["numbers"] > 200,
                "numbers arrive",
            )
            watcher.signal(signal.SIGTERM)
            assert watcher.wait() == 0
        seen = json.loads(report.read_text())
        assert seen["out_of_sequence"] == 0
        assert seen["error"] == ""
        assert seen["numbers"] == seen["last"] - seen["first"] + 1
        assert read(bundle / "rootfs" / "status").ticks > 200
    finally:
        host.run(["runc", "delete", "-f", "support-payload"])
        host.remove_network("payload")
        host.run(["rm", "-r", "/srv/payload"])
        client.run(["rm", "/srv/report"])
    assert hosts.host1.run(["runc", "list", "-q"]).stdout == ""
