"""What CRIU alone takes for a container with nothing in its memory: the least there is.

Lives here: `criu dump` and `criu restore` by hand, on one host, images in memory, nothing
sent anywhere. Must not live here: printing.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, TypedDict

from pycriu import images

from bench.migration import BUNDLE, ID, clean_up, start
from tests.support.hosts import wait_until

if TYPE_CHECKING:
    from tests.support.hosts import Host, Site

FOLDER = "/run/raw-criu"
ROOT = "/run/raw-criu-root"
# The same for both: control groups stay as they are, what is mounted from outside comes
# from outside again, and no packet can come to a container that has only lo.
BOTH = (
    *("--images-dir", FOLDER, "--manage-cgroups=ignore", "--network-lock", "skip"),
    *("--external", "mnt[]:m"),
)


class Raw(TypedDict):
    """One dump and one restore.

    Attributes:
        frozen_seconds: for which the dump held it, as CRIU says.
        restore_seconds: from the start of `criu restore` to its end.
    """

    frozen_seconds: float
    restore_seconds: float


def _dump(host: Host) -> float:
    pid = json.loads(host.run(["migrate", "state", ID]).stdout)["pid"]
    host.run(["mkdir", FOLDER])
    host.run(["criu", "dump", "--tree", str(pid), "--root", f"{BUNDLE}/rootfs", *BOTH])
    with host.folder(f"{FOLDER}/stats-dump").open("rb") as file:
        return float(images.load(file)["entries"][0]["dump"]["frozen_time"]) / 1e6


def _restore(host: Host) -> float:
    host.run(["mkdir", ROOT])
    host.run(["mount", "--rbind", f"{BUNDLE}/rootfs", ROOT])
    began = time.monotonic()
    host.run(
        [
            *("criu", "restore", "--restore-detached", "--pidfile", f"{FOLDER}/pid"),
            *("--root", ROOT, *BOTH),
        ]
    )
    return time.monotonic() - began


def _end(host: Host) -> None:
    pid = host.folder(f"{FOLDER}/pid")
    if pid.exists():
        host.run(["kill", "-KILL", pid.read_text()], check=False)
        wait_until(
            lambda: not host.folder(f"/proc/{pid.read_text()}").exists(), "the restored one ends"
        )
    host.run(["umount", "--recursive", ROOT], check=False)
    host.run(["sh", "-c", f"rm -rf {FOLDER} && rmdir {ROOT}"], check=False)


def measure(site: Site, runs: int) -> list[Raw]:
    """Dump and restore a fresh container on host1, `runs` times.

    Raises:
        CommandError: CRIU failed.
    """
    found: list[Raw] = []
    for _ in range(runs):
        try:
            start(site.host1, "migrate", 0, "mixed")
            frozen = _dump(site.host1)
            found.append({"frozen_seconds": frozen, "restore_seconds": _restore(site.host1)})
        finally:
            _end(site.host1)
            clean_up(site, "migrate")
    return found
