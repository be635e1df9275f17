"""Bundles in a machine, and the containers of tests that stay on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.vm.machines import Machine

Change = Callable[[dict[str, Any]], object]

ROOTFS = """
set -eu
mkdir -p {path}/rootfs
cd {path}/rootfs
mkdir -p bin dev etc proc root sys tmp var
cp /bin/busybox /vagrant/.prefix/payload bin/
for applet in sh sleep cat head id ls; do ln -sf busybox bin/$applet; done
cd ..
rm -f config.json
migrate spec {options}
"""


def make_bundle(
    machine: Machine, path: str, args: list[str], change: Change | None = None, options: str = ""
) -> str:
    """Make a bundle of busybox and the payload in a machine, and return its path.

    Args:
        machine: where.
        path: of the bundle.
        args: the container's process.
        change: called with config.json's data before it is written.
        options: of `migrate spec`.
    """
    machine.run(ROOTFS.format(path=path, options=options))
    config = json.loads(machine.run(["cat", f"{path}/config.json"]).stdout)
    config["process"]["terminal"] = False
    config["process"]["args"] = args
    config["root"]["readonly"] = False
    if change is not None:
        change(config)
    machine.run(f"cat >{path}/config.json", text_in=json.dumps(config, indent=2))
    return path


def run_detached(machine: Machine, *words: str, options: str = "") -> None:
    """Run a container that keeps none of our pipes."""
    machine.run_detached(["migrate", *options.split(), "run", "--detach", *words])


def remove(machine: Machine, *paths: str) -> None:
    """Delete every container of root's, and bundles."""
    machine.run("for id in $(migrate list -q); do migrate delete --force $id; done")
    machine.run(["rm", "-rf", *paths])
