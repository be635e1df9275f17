"""linux.resources and cgroupsPath: limits set, and read back from the kernel's own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .driver import CGROUP_ROOT, Config, Container, Runtime, cgroups_named

# On a host of version 2 alone there is one tree, and the files have other names.
IS_V2 = not (CGROUP_ROOT / "memory").is_dir()


def with_resources(**resources: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["linux"]["resources"].update(resources)

    return change


def read(container: Container, controller: str, name: str) -> str:
    """A file of the container's cgroup, on version 1 of one controller."""
    for line in Path(f"/proc/{container.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if IS_V2 and not controllers:
            return (CGROUP_ROOT / path.lstrip("/") / name).read_text().strip()
        if controller in controllers.split(","):
            return (CGROUP_ROOT / controller / path.lstrip("/") / name).read_text().strip()
    raise AssertionError(f"no {controller} for {container.id}")


LIMITS: list[tuple[dict[str, Any], dict[str, str], dict[str, str]]] = [
    # resources, files of version 1, files of version 2
    (
        {"memory": {"limit": 67108864}},
        {"memory.limit_in_bytes": "67108864"},
        {"memory.max": "67108864"},
    ),
    (
        {"memory": {"limit": 67108864, "reservation": 33554432}},
        {"memory.soft_limit_in_bytes": "33554432"},
        {"memory.low": "33554432"},
    ),
    (
        {"memory": {"limit": -1}},
        {"memory.limit_in_bytes": "9223372036854771712"},
        {"memory.max": "max"},
    ),
    ({"pids": {"limit": 17}}, {"pids.max": "17"}, {"pids.max": "17"}),
    ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    (
        {"cpu": {"shares": 512, "quota": 50000, "period": 200000}},
        {"cpu.shares": "512", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "200000"},
        {"cpu.weight": "20", "cpu.max": "50000 200000"},
    ),
    (
        {"cpu": {"cpus": "1", "mems": "0"}},
        {"cpuset.cpus": "1", "cpuset.mems": "0"},
        {"cpuset.cpus": "1", "cpuset.mems": "0"},
    ),
]


@pytest.mark.parametrize(("resources", "version_1", "version_2"), LIMITS)
def test_a_limit_is_what_the_kernel_says(
    runtime: Runtime,
    resources: dict[str, Any],
    version_1: dict[str, str],
    version_2: dict[str, str],
) -> None:
    container = runtime.create(runtime.bundle(change=with_resources(**resources)))
    for name, value in (version_2 if IS_V2 else version_1).items():
        assert read(container, name.partition(".")[0], name) == value


def test_the_limit_of_processes_holds(runtime: Runtime) -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 9 & done 2>/dev/null; ps | grep -c 'sleep 9$'"
    container = runtime.started(
        runtime.bundle(
            "sh", "-c", f"({script}); echo done", change=with_resources(pids={"limit": 4})
        )
    )
    container.wait_until("stopped")
    assert "6" not in container.written().split()


def test_the_limit_of_memory_kills(runtime: Runtime) -> None:
    limit = {"limit": 8 << 20, "swap": 8 << 20}
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo $?"
    out = runtime.shell(script, change=with_resources(memory=limit))
    assert out.strip() in {"137", "1"}


def test_every_controller_has_the_container_in_a_cgroup_of_its_own(runtime: Runtime) -> None:
    container = runtime.create()
    lines = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers or IS_V2:
            assert path.endswith(f"/{container.id}"), line


def test_the_cgroups_path_is_followed(runtime: Runtime) -> None:
    name = f"{runtime.prefix}parent"

    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = f"/{name}/child"

    container = runtime.create(runtime.bundle(change=change))
    assert f":/{name}/child" in Path(f"/proc/{container.pid}/cgroup").read_text()
    assert read(container, "pids", "cgroup.procs") == str(container.pid)
    container("delete --force")
    for parent in cgroups_named(name):
        assert not (parent / "child").exists()
        parent.rmdir()


def test_a_cgroup_made_inside_goes_with_the_container(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        for mount in config["mounts"]:
            if mount["type"] == "cgroup":
                mount["options"].remove("ro")

    top = "/sys/fs/cgroup" if IS_V2 else "/sys/fs/cgroup/pids"
    script = f"mkdir -p {top}/a/b && echo 1 > {top}/a/b/cgroup.procs"
    bundle = runtime.bundle("sh", "-c", f"{script} && echo up; sleep 99", change=change)
    container = runtime.started(bundle)
    container.wait_for_output("up")
    assert "running" in container.status
    container("pause")
    assert container.status == "paused"
    container("resume")
    container("delete --force")
    assert cgroups_named(container.id) == []


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"limit": "much"}},
        {"memory": {"limit": 1 << 70}},
        {"cpu": {"cpus": "0-999999"}},
        {"cpu": {"period": 1, "quota": 1}},
        {"pids": {"limit": "many"}},
    ],
)
def test_a_limit_that_cannot_be_set_is_refused_and_nothing_is_left(
    runtime: Runtime, resources: dict[str, Any]
) -> None:
    bundle = runtime.bundle(change=with_resources(**resources))
    container = runtime.new_id()
    runtime.refuses("create", "--bundle", str(bundle.path), container)
    assert runtime.ids() == []
    assert cgroups_named(container) == []


def test_two_containers_do_not_share_a_cgroup(runtime: Runtime) -> None:
    first, second = runtime.create(), runtime.create()
    assert read(first, "pids", "cgroup.procs") == str(first.pid)
    assert read(second, "pids", "cgroup.procs") == str(second.pid)
    first("delete --force")
    assert second.status == "created"


def test_a_create_into_the_cgroup_of_another_is_refused_and_leaves_it_alone(
    runtime: Runtime,
) -> None:
    first = runtime.create()

    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = f"/{first.id}"

    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "not empty" in error
    assert runtime.ids() == [first.id]
    assert first.status == "created"


@pytest.mark.parametrize("verb", ["delete", "delete --force"])
def test_who_moved_into_the_cgroup_of_a_stopped_container_outlives_its_delete(
    runtime: Runtime, verb: str
) -> None:
    first = runtime.started()

    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = f"/{first.id}"

    first("kill", "KILL")
    first.wait_until("stopped")
    second = runtime.started(runtime.bundle(change=change))
    runtime(*verb.split(), first.id)
    assert second.status == "running"
    assert runtime.ids() == [second.id]
