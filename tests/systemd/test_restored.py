"""Containers of systemd's driver that were checkpointed, and come back as units."""

from __future__ import annotations

import pytest

from tests.systemd.conftest import Runtime

pytestmark = pytest.mark.hosts

MIB = 1 << 20


def test_a_container_comes_back_from_images_as_the_same_unit(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    runtime.machine.run(
        ["sh", "-c", f"migrate --systemd-cgroup run -d -b {bundle} c1 </dev/null >/dev/null 2>&1"]
    )
    runtime("checkpoint", "--image-path", "/srv/images", "c1")
    assert "runc-c1.scope" not in runtime.machine.units()
    runtime("restore", "--detach", "--bundle", bundle, "--image-path", "/srv/images", "c1")
    assert runtime.state("c1")["status"] == "running"
    assert runtime.groups(runtime.state("c1")["pid"])[""] == "/system.slice/runc-c1.scope"
    shown = runtime.machine.show("runc-c1.scope", "ActiveState", "Delegate")
    assert shown == {"ActiveState": "active", "Delegate": "yes"}
    runtime("delete", "--force", "c1")
    assert "runc-c1.scope" not in runtime.machine.units()
