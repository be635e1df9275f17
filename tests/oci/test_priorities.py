"""How processes share processors, disks and memory; and the personality, set beside it."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .driver import Config, Container, Runtime, cgroups_named


def with_process(name: str, value: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["process"][name] = value

    return change


def with_linux(name: str, value: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["linux"][name] = value

    return change


def scheduling(pid: int | str) -> tuple[int, int, int]:
    """Policy, real-time priority and nice of a process, from the end of its stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[38]), int(fields[37]), int(fields[16])


BUDGET = Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")


@pytest.fixture
def budget() -> Callable[[Config], None]:
    """Time for real-time tasks, which a v1 group has none of before it is given some."""
    has_budgets = BUDGET.exists()
    if has_budgets and int(BUDGET.read_text()) == 0:
        BUDGET.write_text("20000")  # the test run's own group, which goes with it

    def change(config: Config) -> None:
        if has_budgets:
            config["linux"]["resources"]["cpu"] = {"realtimeRuntime": 10000}

    return change


def running(runtime: Runtime, change: Callable[[Config], None]) -> Container:
    return runtime.started(runtime.bundle(change=change))


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"policy": "SCHED_OTHER", "nice": 7}, (0, 0, 7)),
        ({"policy": "SCHED_OTHER", "nice": -5}, (0, 0, -5)),
        ({"policy": "SCHED_BATCH", "nice": 3}, (3, 0, 3)),
        ({"policy": "SCHED_IDLE"}, (5, 0, 0)),
        ({"policy": "SCHED_FIFO", "priority": 10}, (1, 10, 0)),
        ({"policy": "SCHED_RR", "priority": 99}, (2, 99, 0)),
        (
            {"policy": "SCHED_FIFO", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            (1 | 0x40000000, 1, 0),
        ),
    ],
)
def test_the_policy_and_the_priority_are_the_configs(
    runtime: Runtime,
    budget: Callable[[Config], None],
    scheduler: Any,
    expected: tuple[int, int, int],
) -> None:
    def change(config: Config) -> None:
        budget(config)
        config["process"]["scheduler"] = scheduler

    container = running(runtime, change)
    policy, priority, nice = scheduling(container.pid)
    assert (policy, priority, nice) == (expected[0] & 0xFF, *expected[1:])
    assert os.sched_getscheduler(container.pid) == expected[0]


def test_a_deadline_is_the_configs(runtime: Runtime) -> None:
    scheduler = {
        "policy": "SCHED_DEADLINE",
        "runtime": 1_000_000,
        "deadline": 50_000_000,
        "period": 100_000_000,
        "flags": ["SCHED_FLAG_RESET_ON_FORK"],
    }
    container = running(runtime, with_process("scheduler", scheduler))
    assert scheduling(container.pid)[0] == 6


def test_a_priority_holds_in_a_user_namespace_too(
    runtime: Runtime, budget: Callable[[Config], None]
) -> None:
    def change(config: Config) -> None:
        budget(config)
        config["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 0, "size": 65536}]
        config["linux"].update(uidMappings=ids, gidMappings=ids)
        config["process"]["scheduler"] = {"policy": "SCHED_FIFO", "priority": 5}

    container = running(runtime, change)
    assert scheduling(container.pid) == (1, 5, 0)


@pytest.mark.parametrize(
    ("scheduler", "named"),
    [
        ({}, "policy"),
        ({"policy": "SCHED_NEVER"}, "SCHED_NEVER"),
        ({"policy": "SCHED_OTHER", "nice": 20}, "nice"),
        ({"policy": "SCHED_OTHER", "nice": -21}, "nice"),
        ({"policy": "SCHED_OTHER", "priority": 1}, "priority"),
        ({"policy": "SCHED_FIFO"}, "priority"),
        ({"policy": "SCHED_RR", "priority": 100}, "priority"),
        ({"policy": "SCHED_FIFO", "priority": 1, "runtime": 5}, "SCHED_DEADLINE"),
        ({"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 5}, "deadline"),
        ({"policy": "SCHED_DEADLINE"}, "deadline"),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NONE"]}, "SCHED_FLAG_NONE"),
        ({"policy": "SCHED_OTHER", "nice": "1"}, "nice"),
    ],
)
def test_a_scheduler_that_cannot_be_meant_is_refused(
    runtime: Runtime, scheduler: Any, named: str
) -> None:
    bundle = runtime.bundle(change=with_process("scheduler", scheduler))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.process.scheduler" in error
    assert named in error
    assert runtime.ids() == []


def test_what_the_kernel_refuses_is_said_and_leaves_nothing(runtime: Runtime) -> None:
    # SCHED_ISO has a number and no implementation.
    bundle = runtime.bundle(change=with_process("scheduler", {"policy": "SCHED_ISO"}))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "SCHED_ISO" in error
    assert "invalid argument" in error
    assert runtime.ids() == []
    assert cgroups_named(runtime.prefix) == []


def io_priority(pid: int) -> tuple[int, int]:
    """Class and level, by the system call: nothing of /proc shows them."""
    number = 252 if os.uname().machine == "x86_64" else 31
    value: int = ctypes.CDLL(None).syscall(number, 1, pid)
    return value >> 13, value & 7


@pytest.mark.parametrize(
    ("name", "number", "level"),
    [("IOPRIO_CLASS_RT", 1, 0), ("IOPRIO_CLASS_BE", 2, 7), ("IOPRIO_CLASS_IDLE", 3, 3)],
)
def test_the_io_priority_is_the_configs_and_of_exec_too(
    runtime: Runtime, name: str, number: int, level: int
) -> None:
    wanted = {"class": name, "priority": level}
    container = running(runtime, with_process("ioPriority", wanted))
    assert io_priority(container.pid) == (number, level)
    container("exec --detach", "sleep", "1000")
    assert {io_priority(pid) for pid in container.pids()} == {(number, level)}


@pytest.mark.parametrize(
    "priority",
    [
        {"class": "IOPRIO_CLASS_BE", "priority": 8},
        {"class": "IOPRIO_CLASS_BE", "priority": -1},
        {"class": "IOPRIO_CLASS_NONE", "priority": 1},
        {"priority": 1},
    ],
)
def test_an_io_priority_that_cannot_be_meant_is_refused(runtime: Runtime, priority: Any) -> None:
    bundle = runtime.bundle(change=with_process("ioPriority", priority))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.process.ioPriority" in error


def test_exec_has_the_scheduler_of_the_container_unless_it_brings_one(runtime: Runtime) -> None:
    container = running(runtime, with_process("scheduler", {"policy": "SCHED_BATCH", "nice": 4}))
    assert container.exec("cut", "-d", " ", "-f", "19", "/proc/self/stat") == "4\n"
    asked: Config = {
        "args": ["sh", "-c", "cut -d ' ' -f 19 /proc/self/stat"],
        "cwd": "/",
        "env": ["PATH=/bin"],
    }
    path = container.bundle.path / "process.json"
    path.write_text(json.dumps(asked))
    assert container(f"exec --process {path}").out == "4\n"
    asked["scheduler"] = {"policy": "SCHED_OTHER", "nice": 9}
    path.write_text(json.dumps(asked))
    assert container(f"exec --process {path}").out == "9\n"


def allowed(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("Cpus_allowed_list")).split()[
        1
    ]


@pytest.mark.parametrize(
    ("affinity", "is_one"),
    [({"initial": "0"}, False), ({"final": "0"}, True), ({"initial": "0-1", "final": "0"}, True)],
)
def test_exec_runs_on_the_cpus_it_asks_for(
    runtime: Runtime, affinity: dict[str, str], *, is_one: bool
) -> None:
    container = running(runtime, with_process("execCPUAffinity", affinity))
    # Of the first process nothing is said.
    first = Path(f"/proc/{container.pid}/status").read_text()
    assert allowed(first) == allowed(Path("/proc/self/status").read_text())
    inside = allowed(container.exec("cat", "/proc/self/status"))
    assert not is_one or inside == "0"


def test_exec_by_a_file_asks_for_cpus_of_its_own(runtime: Runtime) -> None:
    container = running(runtime, with_process("execCPUAffinity", {"final": "0"}))
    path = container.bundle.path / "process.json"
    asked = {"args": ["cat", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"]}
    path.write_text(json.dumps(asked))
    assert allowed(container(f"exec --process {path}").out) == "0"
    last = max(os.sched_getaffinity(0))
    path.write_text(json.dumps({**asked, "execCPUAffinity": {"final": str(last)}}))
    assert allowed(container(f"exec --process {path}").out) == str(last)


@pytest.mark.parametrize("text", ["x", "3-1", "0,", "-1", "0-99999", "1.5"])
def test_a_list_of_cpus_that_is_none_is_refused(runtime: Runtime, text: str) -> None:
    bundle = runtime.bundle(change=with_process("execCPUAffinity", {"initial": text}))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.process.execCPUAffinity.initial" in error


def test_exec_on_cpus_that_are_not_there_says_so(runtime: Runtime) -> None:
    container = running(runtime, with_process("execCPUAffinity", {"final": "8000"}))
    error = runtime.refuses("exec", container.id, "true")
    assert "$.process.execCPUAffinity.final" in error
    assert "8000" in error


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0"}, "interleave:0"),
        ({"mode": "MPOL_PREFERRED", "nodes": "0"}, "prefer:0"),
        ({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}, "prefer (many):0"),
        ({"mode": "MPOL_LOCAL"}, "local"),
        ({"mode": "MPOL_DEFAULT", "nodes": ""}, "default"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "bind=static:0"),
        (
            {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]},
            "bind=relative:0",
        ),
    ],
)
def test_the_memory_policy_is_the_configs_and_of_exec_too(
    runtime: Runtime, policy: Any, shown: str
) -> None:
    container = running(runtime, with_linux("memoryPolicy", policy))
    maps = Path(f"/proc/{container.pid}/numa_maps").read_text()
    assert maps.splitlines()[0].partition(" ")[2].startswith(shown), maps
    inside = container.exec("cat", "/proc/self/numa_maps")
    assert inside.splitlines()[0].partition(" ")[2].startswith(shown), inside


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ({"nodes": "0"}, "mode"),
        ({"mode": "MPOL_MAX"}, "MPOL_MAX"),
        ({"mode": "MPOL_BIND"}, "nodes"),
        ({"mode": "MPOL_LOCAL", "nodes": "0"}, "nodes"),
        ({"mode": "MPOL_BIND", "nodes": "a"}, "nodes"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_X"]}, "MPOL_F_X"),
        ({"mode": "MPOL_BIND", "nodes": "1000"}, "invalid argument"),
    ],
)
def test_a_memory_policy_that_cannot_be_meant_is_refused(
    runtime: Runtime, policy: Any, named: str
) -> None:
    bundle = runtime.bundle(change=with_linux("memoryPolicy", policy))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.linux.memoryPolicy" in error
    assert named in error
    assert runtime.ids() == []


def test_a_32_bit_personality_is_of_all_processes(runtime: Runtime) -> None:
    container = running(runtime, with_linux("personality", {"domain": "LINUX32"}))
    assert int(Path(f"/proc/{container.pid}/personality").read_text(), 16) == 0x8
    machine = os.uname().machine
    expected = "i686" if machine == "x86_64" else machine
    assert container.exec("uname", "-m").strip() == expected
    plain = running(runtime, with_linux("personality", {"domain": "LINUX"}))
    assert plain.exec("uname", "-m").strip() == machine


@pytest.mark.parametrize(
    "personality", [{}, {"domain": "BSD"}, {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}]
)
def test_a_personality_that_cannot_be_meant_is_refused(runtime: Runtime, personality: Any) -> None:
    bundle = runtime.bundle(change=with_linux("personality", personality))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.linux.personality" in error
