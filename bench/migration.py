"""One container moved once, by `migrate live` or by the script, and what it cost.

Lives here: starting the payload, moving it, reading its own account of the
downtime, checking its memory, and cleaning up. Must not live here: printing.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.meters import Meter, Used
from tests.support.bundle import make_bundle
from tests.support.hosts import Host, Site, wait_until
from tests.support.payload import Status
from tests.support.processes import CommandError, Process

if TYPE_CHECKING:
    from collections.abc import Sequence

Method = Literal["migrate", "script", "stop-copy", "pre-copy"]
Mix = Literal["mixed", "random"]

SCRIPT = Path(__file__).with_name("script.sh")
ID = "bench"
BUNDLE = f"/srv/{ID}"
IMAGES = f"/run/{ID}-images"
LOG = f"/run/{ID}.log"
LOOK_SECONDS = 0.01
# A move that takes longer is given up.
MOST_SECONDS = 1200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one move cost.

    Attributes:
        method: how it was moved: by the script, by `migrate live` as it chooses, or by a
            strategy of its that is named.
        memory_mib: memory the payload filled, beside its own megabyte.
        downtime_seconds: largest gap in its own heartbeat.
        used: everything else.
    """

    method: Method
    memory_mib: int
    downtime_seconds: float
    used: Used

    def as_json(self) -> dict[str, Any]:
        """Return it as flat data."""
        whole = asdict(self)
        return {**whole.pop("used"), **whole}


def _command(method: Method) -> Sequence[str]:
    if method == "script":
        return ["sh", str(SCRIPT), ID, "host2", BUNDLE, IMAGES]
    strategy = [] if method == "migrate" else ["--strategy", method]
    return ["migrate", "live", ID, "--to", "host2", *strategy]


def _runtime(method: Method) -> str:
    return "runc" if method == "script" else "migrate"


def _status(host: Host) -> Status:
    path = host.folder(f"{BUNDLE}/rootfs/status")
    status: Status = wait_until(lambda: Status.read(path), "the payload's status", 60)
    return status


def start(host: Host, runtime: str, memory_mib: int, mix: Mix, dirty_pages: int = 0) -> None:
    """Start the payload and wait until its memory is filled and its heartbeat steady."""
    args = ["payload", "--status", "/status"]
    if memory_mib:
        args += ["--memory", str(memory_mib), "--mix", mix, "--dirty", str(dirty_pages)]
    make_bundle(host.folder(BUNDLE), args, runtime="runc")
    host.run_detached([runtime, "run", "--detach", "--bundle", BUNDLE, ID])
    wait_until(lambda: _status(host).ticks > 300, "a steady heartbeat", 60)
    host.run([runtime, "kill", ID, "USR1"])
    ticks = _status(host).ticks
    wait_until(lambda: _status(host).ticks > ticks + 100, "the gap is forgotten")


def _wait(process: Process, meter: Meter) -> int:
    """Wait for the end, watching the memory."""
    give_up = time.monotonic() + MOST_SECONDS
    while time.monotonic() < give_up:
        meter.look()
        try:
            return process.wait(LOOK_SECONDS)
        except TimeoutError:
            continue
    message = f"the move was not over after {MOST_SECONDS} s"
    raise TimeoutError(message)


def _finish(host: Host, runtime: str, *, has_memory: bool) -> Status:
    """Let it run on for a while where it arrived, check its memory, return its account."""
    ticks = _status(host).ticks
    wait_until(lambda: _status(host).ticks > ticks + 100, "it goes on", 60)
    account = _status(host)
    if has_memory:
        host.run([runtime, "kill", ID, "USR2"])
        wait_until(lambda: _status(host).memory != "none", "its memory is checked", 60)
        if _status(host).memory != "intact":
            message = f"the memory that {runtime} brought is damaged"
            raise CommandError(message)
    return account


def clean_up(site: Site, runtime: str) -> None:
    """Leave nothing of the container on either host."""
    for host in (site.host1, site.host2):
        host.run([runtime, "delete", "--force", ID], check=False)
        host.run(["rm", "-rf", BUNDLE, IMAGES, LOG])


def move_once(
    site: Site, method: Method, memory_mib: int, mix: Mix, dirty_pages: int = 0
) -> Outcome:
    """Move a fresh container from host1 to host2 and return what it cost.

    Args:
        site: with both hosts.
        method: how it goes.
        memory_mib: memory it fills.
        mix: contents of that memory.
        dirty_pages: pages of it that the container writes at each of its ticks.

    Raises:
        CommandError: it did not arrive, or not whole.
        TimeoutError: it, or a step of it, took too long.
    """
    runtime = _runtime(method)
    try:
        start(site.host1, runtime, memory_mib, mix, dirty_pages)
        log = site.host1.folder(LOG)
        with log.open("wb") as output:
            meter = Meter([site.host1, site.host2])
            with site.host1.popen(_command(method), stdout=output, stderr=output) as process:
                status = _wait(process, meter)
            used = meter.stop()
        if status:
            message = f"{method}: exit status {status}\n{log.read_text()}"
            raise CommandError(message)
        account = _finish(site.host2, runtime, has_memory=memory_mib > 0)
    finally:
        clean_up(site, runtime)
    return Outcome(method, memory_mib, account.largest_gap_us / 1e6, used)
