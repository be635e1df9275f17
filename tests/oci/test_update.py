"""update: limits changed while the container runs, by options, by a file, by standard input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .driver import CGROUP_ROOT, Container, Runtime
from .test_cgroups import IS_V2, read

MEMORY = "memory.max" if IS_V2 else "memory.limit_in_bytes"


@pytest.fixture
def container(runtime: Runtime) -> Container:
    return runtime.started()


@pytest.mark.parametrize(
    ("options", "file", "value"),
    [
        (["--memory", "67108864"], MEMORY, "67108864"),
        (["--memory", "64M"], MEMORY, "67108864"),
        (["--pids-limit", "23"], "pids.max", "23"),
        (["--cpu-share", "512"], "cpu.weight" if IS_V2 else "cpu.shares", "20" if IS_V2 else "512"),
        (["--cpuset-cpus", "0"], "cpuset.cpus", "0"),
    ],
)
def test_a_limit_is_changed_by_its_option(
    container: Container, options: list[str], file: str, value: str
) -> None:
    container.runtime.ok("update", *options, container.id)
    assert read(container, file.partition(".")[0], file) == value


def test_limits_come_from_a_file_and_from_standard_input(container: Container) -> None:
    path = container.bundle.path / "resources.json"
    path.write_text(json.dumps({"pids": {"limit": 31}, "memory": {"limit": 50331648}}))
    container.runtime.ok("update", "--resources", str(path), container.id)
    assert read(container, "pids", "pids.max") == "31"
    assert read(container, "memory", MEMORY) == "50331648"
    path.write_text(json.dumps({"pids": {"limit": 32}}))
    with path.open() as stdin:
        container.runtime.ok("update", "--resources", "-", container.id, stdin=stdin)
    assert read(container, "pids", "pids.max") == "32"
    assert read(container, "memory", MEMORY) == "50331648"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"memory": {"limit": "much"}}'])
def test_a_broken_file_of_limits_changes_nothing(container: Container, text: str) -> None:
    before = read(container, "memory", MEMORY)
    path = container.bundle.path / "resources.json"
    path.write_text(text)
    container.runtime.refuses("update", "--resources", str(path), container.id)
    assert read(container, "memory", MEMORY) == before


def test_a_limit_the_kernel_refuses_is_an_error(container: Container) -> None:
    container.runtime.refuses("update", "--cpuset-cpus", "999", container.id)
    container.runtime.refuses("update", "--memory", "much", container.id)


def test_an_update_leaves_devices_as_they_were(container: Container) -> None:
    container.runtime.ok("update", "--memory", "67108864", container.id)
    assert container.exec("sh", "-c", "echo x > /dev/null && echo fine") == "fine\n"


def test_exec_joins_a_group_below_the_containers(container: Container) -> None:
    groups = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
    path = next(line.split(":", 2)[2] for line in groups if IS_V2 or ":pids:" in line)
    top = CGROUP_ROOT if IS_V2 else CGROUP_ROOT / "pids"
    (top / path.lstrip("/") / "inner").mkdir()
    option = "inner" if IS_V2 else "pids:inner"
    command = ["exec", "--cgroup", option, container.id, "cat", "/proc/self/cgroup"]
    shown = container.runtime.ok(*command).out.splitlines()
    assert any(line.endswith("/inner") and (IS_V2 or ":pids:" in line) for line in shown)
