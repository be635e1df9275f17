"""podman in the machines, as Debian 13 has it, with this runtime in place of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.bundles import make_bundle
from tests.vm.container import eventually
from tests.vm.machines import Machine, Pair

IMAGE = "localhost/busybox"
PODMAN = ["podman", "--runtime", "/usr/local/bin/migrate"]
COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
EXPORT, SAVED = "/srv/export.tar", "/srv/image.tar"


@pytest.fixture
def machines(pair: Pair) -> Iterator[Pair]:
    """Both, with the very same image."""
    make_bundle(pair.host1, "/srv/image", ["sh"])
    imported = f"tar -C /srv/image/rootfs -c . | podman import - {IMAGE}"
    pair.host1.run(f"{imported} && podman save -o {SAVED} {IMAGE}")
    pair.host1.run(f"ssh host2 'cat >{SAVED}' <{SAVED} && ssh host2 podman load -i {SAVED}")
    yield pair
    for machine in pair.machines.values():
        machine.run("podman rm --force --all --time 0 && podman rmi --force --all", check=False)
        # What podman makes once and keeps; and what was put there above.
        machine.run("podman system reset --force && rm -rf /srv/*", check=False)


def count(machine: Machine, name: str) -> int:
    """Return how far the counter is; 0 while it is being written."""
    said = machine.run([*PODMAN, "exec", name, "cat", "/count"], check=False).stdout
    return int(said.strip() or 0)


@pytest.mark.long
def test_what_is_exported_on_one_machine_is_restored_on_the_other(machines: Pair) -> None:
    host1, host2 = machines.host1, machines.host2
    run = [*PODMAN, "run", "--detach", "--name", "c1", "--network", "none"]
    host1.run([*run, "--memory", "64m", "--pids-limit", "40", IMAGE, "sh", "-c", COUNTER])
    runtime = host1.run(["podman", "inspect", "--format", "{{.OCIRuntime}}", "c1"]).stdout
    assert runtime.strip().endswith("/migrate")
    eventually(lambda: count(host1, "c1") > 3, "it counts")
    host1.run([*PODMAN, "container", "checkpoint", "--export", EXPORT, "c1"])
    reached = count_of_archive(host1)
    host1.run(f"ssh host2 'cat >{EXPORT}' <{EXPORT}")

    host2.run([*PODMAN, "container", "restore", "--import", EXPORT])
    eventually(lambda: count(host2, "c1") > reached, "it counts on where it was")
    place = host2.run(["podman", "inspect", "--format", "{{.State.CgroupPath}}", "c1"]).stdout
    limit = host2.run(["cat", f"/sys/fs/cgroup{place.strip()}/memory.max"]).stdout
    assert limit == f"{64 << 20}\n"


def count_of_archive(machine: Machine) -> int:
    """Return how far the counter was when it was exported."""
    layer = f"tar -xOf {EXPORT} rootfs-diff.tar | tar -xO count"
    return int(machine.run(layer).stdout or 0)
