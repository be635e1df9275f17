"""podman with its systemd manager: the driver as an engine asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.engines.place import engine_host, image_tree
from tests.engines.podman import IMAGE, Podman
from tests.support.hosts import wait_until
from tests.support.systemd import Machine, booted

pytestmark = pytest.mark.hosts

MIB = 1 << 20


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with systemd on a host made for engines."""
    with ExitStack() as stack:
        host = stack.enter_context(engine_host(tmp_path_factory.mktemp("systemd-engines")))
        yield stack.enter_context(booted(host))


@pytest.fixture(scope="session")
def podman_once(machine: Machine) -> Podman:
    """Podman with its image, once."""
    on_machine: Any = machine  # runs commands as a host does
    podman = Podman(on_machine, machine.host.scratch / "podman")
    settings = podman.folder / "containers.conf"
    settings.write_text(settings.read_text().replace('"cgroupfs"', '"systemd"'))
    podman("import", "--quiet", image_tree(machine.host.scratch), IMAGE)
    podman.shows("true")
    return podman


@pytest.fixture
def podman(machine: Machine, podman_once: Podman) -> Iterator[Podman]:
    """Podman without a container."""
    yield podman_once
    podman_once("pod", "rm", "--force", "--all", "--time", "0")
    podman_once("rm", "--force", "--all", "--time", "0")
    # Nobody removes a pod's group from the v1 trees that systemd does not manage.
    pods = ["find", "/sys/fs/cgroup", "-depth", "-name", "machine-libpod_pod_*.slice"]
    machine.enter([*pods, "-exec", "rmdir", "{}", ";"])


def test_a_container_lives_in_a_scope_below_machine_slice(machine: Machine, podman: Podman) -> None:
    container = podman.start(options=["--memory", "64m", "--pids-limit", "50"])
    unit = f"libpod-{container}.scope"
    shown = machine.show(unit, "ActiveState", "Slice", "MemoryMax", "TasksMax", "Delegate")
    assert shown == {
        "ActiveState": "active",
        "Slice": "machine.slice",
        "MemoryMax": str(64 * MIB),
        "TasksMax": "50",
        "Delegate": "yes",
    }
    assert unit in podman.says("exec", container, "cat", "/proc/self/cgroup")
    podman("update", "--memory", "32m", container)
    assert machine.show(unit, "MemoryMax") == {"MemoryMax": str(32 * MIB)}
    podman("pause", container)
    assert podman.inspect(container, "{{.State.Status}}") == "paused"
    podman("unpause", container)
    podman("stop", "--time", "0", container)
    assert podman.inspect(container, "{{.State.Status}}") == "exited"
    podman("rm", container)
    wait_until(lambda: unit not in machine.units(), "systemd forgets the unit")


def test_a_pod_is_a_slice_with_its_containers_in_it(machine: Machine, podman: Podman) -> None:
    pod = podman.says("pod", "create", "--name", "web")
    container = podman.start(options=["--pod", "web"])
    shown = machine.show(f"libpod-{container}.scope", "ActiveState", "Slice")
    assert shown == {"ActiveState": "active", "Slice": f"machine-libpod_pod_{pod}.slice"}
    podman("pod", "rm", "--force", "--time", "0", "web")
    assert f"libpod-{container}.scope" not in machine.units()
