"""Limits: what the kernel was told, and what it then does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import CgroupError
from migrate.runtime import cgroup
from migrate.runtime.cgroup import device_program, devices, hierarchy, limits_v2, tree
from migrate.runtime.cgroup.hierarchy import directory_of
from tests.runtime.test_cgroup import inside

DENY_ALL = {"allow": False, "access": "rwm"}
FUSE = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"}
OPENER = (
    "import os, sys\n"
    "for path, mode in (('/dev/null', os.O_RDWR), ('/dev/zero', os.O_RDONLY),\n"
    "                   ('fuse', os.O_RDONLY), ('fuse', os.O_RDWR), ('kmsg', os.O_RDONLY)):\n"
    "    try: os.close(os.open(path, mode)); print('yes')\n"
    "    except PermissionError: print('no')\n"
    "    except OSError: print('yes')\n"
)


@pytest.fixture
def paths() -> Iterator[dict[str, str]]:
    found = cgroup.resolve(None, f"cli-limits-{os.getpid()}")
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


def value(paths: dict[str, str], controller: str, name: str) -> str:
    return Path(f"{directory_of(paths, controller)}/{name}").read_text().strip()


@pytest.mark.root
def test_limits_of_v1_are_in_their_files(paths: dict[str, str]) -> None:
    if directory_of(paths, "memory") is None:
        pytest.skip("a v2 host")
    resources = {
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 20},
    }
    cgroup.create(paths, resources)
    assert value(paths, "memory", "memory.limit_in_bytes") == str(64 << 20)
    assert value(paths, "memory", "memory.memsw.limit_in_bytes") == str(96 << 20)
    assert value(paths, "memory", "memory.soft_limit_in_bytes") == str(32 << 20)
    assert value(paths, "cpu", "cpu.shares") == "512"
    assert value(paths, "cpu", "cpu.cfs_quota_us") == "50000"
    assert value(paths, "cpuset", "cpuset.cpus") == "0"
    assert value(paths, "pids", "pids.max") == "20"
    # Both up, then both down: each time the other order is the one that works.
    for limit, swap in ((128 << 20, 256 << 20), (16 << 20, 16 << 20)):
        cgroup.update(paths, {"memory": {"limit": limit, "swap": swap}})
        assert value(paths, "memory", "memory.limit_in_bytes") == str(limit)
        assert value(paths, "memory", "memory.memsw.limit_in_bytes") == str(swap)
    cgroup.update(paths, {"memory": {"limit": -1}, "pids": {"limit": -1}})
    assert value(paths, "pids", "pids.max") == "max"
    assert int(value(paths, "memory", "memory.memsw.limit_in_bytes")) > 1 << 60


@pytest.mark.root
@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"cpu": {"shares": 10, "cpus": "77777"}}, "cpuset.cpus"),
        ({"unified": {"memory.high": "1"}}, "unified is for cgroup v2"),
        ({"network": {"classID": 1}}, "net_cls controller is not mounted"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, "hugetlb"),
    ],
)
def test_a_limit_that_cannot_be_had_is_named(
    paths: dict[str, str], resources: dict[str, Any], words: str
) -> None:
    if directory_of(paths, "memory") is None:
        pytest.skip("a v2 host")
    with pytest.raises(CgroupError, match=words):
        cgroup.create(paths, resources)


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """Device nodes in a folder of their own."""
    os.mknod(tmp_path / "fuse", 0o020666, os.makedev(10, 229))
    os.mknod(tmp_path / "kmsg", 0o020666, os.makedev(1, 11))
    return tmp_path


def opened(paths: dict[str, str], nodes: Path) -> str:
    out = nodes / "out"
    with out.open("w") as file:
        os.chdir(nodes)
        try:
            process = subprocess.Popen(
                ["sh", "-c", f'read go; exec /usr/bin/python3 -IS -c "{OPENER}"'],
                stdin=-1,
                stdout=file,
            )
        finally:
            os.chdir("/")
        cgroup.add(paths, process.pid)
        process.communicate(b"\n")
    return " ".join(out.read_text().split())


@pytest.mark.root
def test_devices_are_closed_but_for_those_that_are_opened(
    paths: dict[str, str], nodes: Path
) -> None:
    cgroup.create(paths, {"devices": [DENY_ALL, FUSE]})
    assert opened(paths, nodes) == "yes yes yes no no"


@pytest.mark.root
def test_on_v2_a_program_closes_them(nodes: Path) -> None:
    place = hierarchy.hierarchies()[""].mount_point
    group = {"": f"{place}/cli-devices-{os.getpid()}"}
    tree.make(group)
    try:
        assert opened(group, nodes) == "yes yes yes yes yes"
        device_program.attach(group[""], [DENY_ALL, FUSE])
        assert opened(group, nodes) == "yes yes yes no no"
    finally:
        cgroup.destroy(group)


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Execute the few instructions that are used, as the kernel would."""
    wanted = sum(device_program.ACCESSES[letter] for letter in access)
    context = (wanted << 16 | device_program.KINDS[kind], major, minor)
    registers = dict.fromkeys(range(7), 0)
    at = 0
    while True:
        code, pair = program[at], program[at + 1]
        to, source = pair & 15, pair >> 4
        offset = int.from_bytes(program[at + 2 : at + 4], "little", signed=True)
        number = int.from_bytes(program[at + 4 : at + 8], "little", signed=True)
        at += 8
        if code == device_program.LOAD_WORD:
            registers[to] = context[offset // 4]
        elif code == device_program.MOVE_REGISTER:
            registers[to] = registers[source]
        elif code == device_program.MOVE_NUMBER:
            registers[to] = number
        elif code == device_program.AND_NUMBER:
            registers[to] &= number
        elif code == device_program.SHIFT_RIGHT:
            registers[to] >>= number
        elif code == device_program.EXIT:
            return bool(registers[0])
        elif (registers[to] == number) == (code == device_program.JUMP_IF_EQUAL):
            at += offset * 8


def last_rule_decides(
    rules: list[devices.Rule], kind: str, number: tuple[int, int], access: str
) -> bool:
    """What the runtime-spec says, letter by letter."""
    answer = dict.fromkeys(access, False)
    for rule in rules:
        matches = rule.kind in ("a", kind) and all(
            wanted in (devices.ANY, given)
            for wanted, given in zip((rule.major, rule.minor), number, strict=True)
        )
        for letter in access:
            if rule.kind == "a" or (matches and letter in rule.access):
                answer[letter] = rule.allow
    return all(answer.values())


NUMBERS = st.sampled_from([devices.ANY, 0, 1, 2])
ACCESS = st.sampled_from(["r", "w", "m", "rw", "rwm"])
RULES = st.lists(
    st.builds(devices.Rule, st.sampled_from("cb"), NUMBERS, NUMBERS, ACCESS, allow=st.booleans())
    | st.builds(
        devices.Rule, st.just("a"), st.just(devices.ANY), st.just(devices.ANY), st.just("rwm"),
        allow=st.booleans(),
    ),
    max_size=8,
)  # fmt: skip


@given(RULES, st.sampled_from("cb"), st.tuples(st.integers(0, 2), st.integers(0, 2)), ACCESS)
def test_the_program_decides_as_the_rules_do(
    rules: list[devices.Rule], kind: str, number: tuple[int, int], access: str
) -> None:
    program = device_program.program(rules)
    assert run(program, kind, *number, access) == last_rule_decides(rules, kind, number, access)


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 0), (1, 1), (2, 1), (1024, 39), (262144, 10000)]
)
def test_shares_become_a_weight(shares: int, weight: int) -> None:
    assert limits_v2.weight_of_shares(shares) == weight


@pytest.mark.parametrize(("weight", "io"), [(0, 0), (10, 1), (500, 4950), (1000, 10000)])
def test_a_block_weight_becomes_an_io_weight(weight: int, io: int) -> None:
    assert limits_v2.io_weight(weight) == io


@pytest.mark.parametrize(
    ("both", "memory", "swap"),
    [(0, 0, 0), (-1, 5, -1), (0, -1, -1), (9, 5, 4), (5, 5, 0), (0, 5, 0)],
)
def test_swap_is_what_is_left_of_both(both: int, memory: int, swap: int) -> None:
    assert limits_v2.swap_only(both, memory) == swap


@pytest.mark.parametrize(("both", "memory"), [(5, 0), (5, -1), (4, 5)])
def test_both_below_one_makes_no_sense(both: int, memory: int) -> None:
    with pytest.raises(CgroupError, match=r"memory\.swap"):
        limits_v2.swap_only(both, memory)


def test_limits_of_v2_are_in_their_files(tmp_path: Path) -> None:
    # No v2 host with these controllers here: the files alone, as the kernel names them.
    resources: dict[str, Any] = {
        "memory": {"limit": 64, "swap": 96, "reservation": 32},
        "cpu": {"shares": 1024, "quota": 5, "period": 10, "cpus": "0-1", "burst": 7},
        "pids": {"limit": -1},
        "blockIO": {
            "weight": 10,
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 3}],
        "rdma": {"mlx5_1": {"hcaHandles": 3}},
        "unified": {"memory.high": "60"},
    }
    expected = {
        "memory.swap.max": "32",
        "memory.max": "64",
        "memory.low": "32",
        "memory.high": "60",
        "cpu.weight": "39",
        "cpu.max": "5 10",
        "cpu.max.burst": "7",
        "cpuset.cpus": "0-1",
        "pids.max": "max",
        "io.weight": "default 1",
        "io.max": "8:0 rbps=9",
        "hugetlb.2MB.max": "3",
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=max",
    }
    for name in expected:
        (tmp_path / name).touch()
    cgroup.update({"": str(tmp_path)}, resources)
    assert {name: (tmp_path / name).read_text() for name in expected} == expected
    with pytest.raises(CgroupError, match="no file name"):
        cgroup.update({"": str(tmp_path)}, {"unified": {"../memory.max": "1"}})
    with pytest.raises(CgroupError, match="the memory controller does not offer it"):
        cgroup.update({"": str(tmp_path)}, {"unified": {"memory.nope": "1"}})


@pytest.mark.root
def test_counters_have_runcs_names_in_its_order(paths: dict[str, str]) -> None:
    cgroup.create(paths, {"pids": {"limit": 20}})
    with inside(paths, "sleep", "100") as process:
        counters = cgroup.stats(paths)
        process.kill()
    assert list(counters) == [
        "cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces",
    ]  # fmt: skip
    assert counters["pids"] == {"current": 1, "limit": 20}
    assert list(counters["cpuset"])[:4] == ["cpus", "cpu_exclusive", "mems", "mem_hardwall"]
    assert next(iter(counters["memory"]["usage"])) == "limit"
    assert list(counters["memory"]["raw"]) == sorted(counters["memory"]["raw"])
    assert list(counters["cpu"]) == ["usage", "throttling"]


def test_counters_of_v2_are_v1s_numbers(tmp_path: Path) -> None:
    for name, text in {
        "cpu.stat": "usage_usec 7\nuser_usec 3\nsystem_usec 4\nnr_periods 2\nthrottled_usec 5",
        "memory.stat": "file 11\nanon 12",
        "memory.current": "100",
        "memory.max": "200",
        "memory.peak": "150",
        "memory.swap.current": "10",
        "memory.swap.max": "50",
        "memory.events": "low 0\nmax 3",
        "pids.current": "4",
        "pids.max": "max",
        "io.stat": "254:0 rbytes=1 wbytes=2 rios=3 wios=4",
        "hugetlb.2MB.current": "6",
        "hugetlb.2MB.events": "max 8",
    }.items():
        (tmp_path / name).write_text(text + "\n")
    counters = cgroup.stats({"": str(tmp_path)})
    assert counters["cpu"] == {
        "usage": {"total": 7000, "kernel": 4000, "user": 3000},
        "throttling": {"periods": 2, "throttledTime": 5000},
    }
    memory = counters["memory"]
    assert memory["cache"] == 11
    assert memory["usage"] == {"limit": 200, "usage": 100, "max": 150, "failcnt": 3}
    assert memory["swap"] == {"limit": 250, "usage": 110, "failcnt": 0}
    assert counters["pids"] == {"current": 4}
    assert counters["hugetlb"] == {"2MB": {"usage": 6, "failcnt": 8}}
    assert counters["blkio"]["ioServicedRecursive"] == [
        {"major": 254, "op": "Read", "value": 3},
        {"major": 254, "op": "Write", "value": 4},
    ]
