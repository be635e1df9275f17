"""What a running container needs of another host, found out from outside."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.live import subject
from migrate.live.kernel_facts import numbers_of
from migrate.live.needs import Needs, _controllers, _huge_mappings, needs_of
from tests.checkpoint import conftest as boxes
from tests.checkpoint.conftest import Box, Maker, eventually
from tests.support.bundle import Config

box = boxes.box  # the fixture


def needs(made: Box) -> Needs:
    found = subject.find(made.store, made.id)
    return needs_of(found.record, found.spec, found.facts, found.plan)


@pytest.mark.criu
def test_what_it_has_open_and_how_it_is_limited_is_found(box: Maker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()

    def change(config: Config) -> None:
        config["mounts"] += [
            {"destination": "/data", "source": str(tmp_path / "data"), "options": ["bind"]},
            {"destination": "/file", "source": str(tmp_path / "file"), "options": ["bind", "ro"]},
        ]
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 777, "soft": 777}]
        config["linux"]["resources"]["pids"] = {"limit": 77}
        config["linux"]["resources"]["cpu"] = {"cpus": "0"}
        config["linux"]["devices"] = [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 438}
        ]
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}],
        }

    made = box("sh", "-c", "exec 123</dev/null; sleep 1000 | sleep 1000", change=change)
    made.start()
    eventually(lambda: len(made.facts().processes) == 3, "all of it runs")
    found = needs(made)
    assert found.limits["nofile"] == 777
    assert (found.highest_descriptor, found.largest_pipe_bytes) == (123, 65536)
    assert found.open_files >= 3 * 3 + 1
    assert found.highest_pid >= 3
    assert found.pids == []
    assert {"pids", "cpuset"} <= set(found.controllers)
    assert (found.cpus, found.memory_nodes) == ([0], [])
    assert found.devices == {"/dev/mine": "c 1"}
    assert found.seccomp == ["allow", "errno"]
    assert {"mnt", "net", "pid"} <= set(found.namespaces)
    assert "proc" in found.filesystems
    assert found.rootfs_files > 100
    assert Needs.from_json(found.to_json()) == found


@pytest.mark.criu
def test_the_numbers_of_one_that_shares_its_hosts_are_found(box: Maker) -> None:
    def change(config: Config) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [each for each in spaces if each["type"] != "pid"]
        config["linux"]["namespaces"].append({"type": "time"})
        config["mounts"] = [each for each in config["mounts"] if each["type"] != "proc"]
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []

    made = box("sleep", "1000", change=change)
    made.start()
    found = needs(made)
    assert found.pids == [made.record["pid"]]
    assert "time" in found.namespaces


@pytest.mark.parametrize(
    ("resources", "controllers"),
    [
        ({}, []),
        ({"memory": {"limit": 1}, "pids": {}}, ["memory"]),
        ({"cpu": {"cpus": "0"}}, ["cpuset"]),
        ({"cpu": {"cpus": "0", "shares": 2}}, ["cpu", "cpuset"]),
        ({"blockIO": {"weight": 10}, "hugepageLimits": [{}]}, ["blkio", "hugetlb"]),
        (
            {"unified": {"io.max": "x", "memory.high": "1", "cgroup.freeze": "0"}},
            ["blkio", "memory"],
        ),
    ],
)
def test_limits_need_their_controllers(
    resources: dict[str, object], controllers: list[str]
) -> None:
    assert _controllers(resources) == controllers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", []), ("0", [0]), ("0-2,7\n", [0, 1, 2, 7]), ("3,1-1", [1, 3]), ("x,2-", [2])],
)
def test_a_list_of_processors_is_read(text: str, numbers: list[int]) -> None:
    assert numbers_of(text) == numbers


@pytest.fixture
def huge_page() -> Iterator[None]:
    """One huge page of 2 MiB, reserved for the test."""
    path = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    before = path.read_text()
    path.write_text(str(int(before) + 1))
    yield
    path.write_text(before)


@pytest.mark.root
def test_memory_in_huge_pages_is_found(huge_page: None) -> None:
    del huge_page
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000  # MAP_HUGETLB
    with mmap.mmap(-1, 2 << 20, flags=flags) as memory:
        memory[0] = 1
        assert list(_huge_mappings(os.getpid())) == [("2048", 2 << 20)]
    assert list(_huge_mappings(os.getpid())) == []
