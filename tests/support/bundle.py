"""OCI bundles out of busybox.

Lives here: the root file system, and config.json as a runtime's own `spec` writes
it, changed to what a test wants. Needs busybox-static.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support import payload
from tests.support.folders import CHECKOUT

BUSYBOX = Path("/bin/busybox")
FOLDERS = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var")
RUNTIME = os.environ.get("RUNTIME", str(CHECKOUT / ".venv" / "bin" / "migrate"))

Config = dict[str, Any]


def make_rootfs(folder: Path) -> Path:
    """Make a root file system of busybox, its applets and the payload, and return it."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy2(BUSYBOX, folder / "bin" / "busybox")
    shutil.copy2(payload.binary(), folder / "bin" / "payload")
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc" / "group").write_text("root:x:0:\n")
    return folder


def default_config(runtime: str = RUNTIME) -> Config:
    """Return the config.json that the runtime's `spec` writes."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([runtime, "spec"], check=True, cwd=folder, stdin=subprocess.DEVNULL)
        return json.loads((Path(folder) / "config.json").read_text())  # type: ignore[no-any-return]


def make_bundle(
    folder: Path,
    args: Sequence[str] = ("sleep", "10000"),
    *,
    network: str | None = None,
    change: Callable[[Config], object] | None = None,
    runtime: str = RUNTIME,
) -> Path:
    """Make a bundle that writes to its rootfs and has no terminal, and return it.

    Args:
        folder: where; made if absent.
        args: the container's process.
        network: path of the network namespace to join; one of its own without links
            by default.
        change: called with config.json's data before it is written.
        runtime: whose `spec` to start from.
    """
    make_rootfs(folder / "rootfs")
    config = default_config(runtime)
    config["process"]["terminal"] = False
    config["process"]["args"] = list(args)
    config["root"]["readonly"] = False
    if network is not None:
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = network
    if change is not None:
        change(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
