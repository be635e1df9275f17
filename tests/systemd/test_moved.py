"""Containers of systemd's driver that move to a host where systemd does not run."""

from __future__ import annotations

import json

import pytest

from tests.systemd.conftest import Runtime

pytestmark = pytest.mark.hosts


@pytest.mark.parametrize("path", ["", "machine.slice:libpod:c1"])
def test_a_container_moves_away_and_its_unit_is_gone(runtime: Runtime, path: str) -> None:
    bundle = runtime.bundle(lambda config: config["linux"].update(cgroupsPath=path))
    run = "exec migrate --systemd-cgroup run --detach --bundle $0 c1 </dev/null >/dev/null 2>&1"
    # No file of the caller's: it could not be checkpointed.
    runtime.machine.run(["sh", "-c", run, bundle])
    runtime("live", "c1", "--to", "host2")
    assert runtime("list", "-q") == ""
    assert not {"runc-c1.scope", "libpod-c1.scope"} & runtime.machine.units()
    there = runtime.destination
    try:
        assert json.loads(there.run(["migrate", "state", "c1"]).stdout)["status"] == "running"
    finally:
        there.run(["migrate", "delete", "--force", "c1"], check=False)
        there.run(["rm", "-rf", bundle])
