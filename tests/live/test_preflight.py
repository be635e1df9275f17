"""What a check says of two hosts and a container, and that it says the way out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from migrate.checkpoint.facts import (
    Connection,
    Facts,
    NetworkNamespace,
    Obstacle,
    Process,
    Stdio,
)
from migrate.errors import ProtocolError
from migrate.events import Finding
from migrate.live import preflight
from migrate.live.comparison import CHECKS, Needs
from migrate.live.host_facts import CAP_SYS_RESOURCE, Bridge, HostFacts, gather
from migrate.live.network import plan as network
from migrate.live.network.plan import Plan
from migrate.runtime.state import Store

GIB = 1 << 30

HOST = HostFacts(
    name="one",
    kernel="6.12.3-amd64",
    machine="x86_64",
    criu="4.2.1",
    cpu_vendor="GenuineIntel",
    cpu_flags=["fpu", "avx", "avx2", "ibrs"],
    cgroups=["", "memory", "pids"],
    memory_bytes=16 * GIB,
    disk_bytes=100 * GIB,
    disk_files=1_000_000,
    limits={"nofile": 20000},
    capabilities=1 << CAP_SYS_RESOURCE,
    is_root=True,
    bridges={"br0": Bridge()},
)
NEEDS = Needs(container_id="c", memory_bytes=GIB, rootfs_bytes=GIB, rootfs_files=1000)
FACTS = Facts(
    container_id="c",
    pid=1,
    rootfs="/bundle/rootfs",
    terminal=False,
    cgroup_namespace=False,
    has_nested_cgroups=False,
    user_namespace=False,
    network=NetworkNamespace(inode=1, kind="own"),
)


def findings(source: HostFacts, there: HostFacts, needs: Needs) -> list[Finding]:
    return [finding for check in CHECKS for finding in check(source, there, needs)]


def test_two_hosts_alike_have_no_objection() -> None:
    assert findings(HOST, replace(HOST, name="two"), NEEDS) == []


@pytest.mark.parametrize(
    ("there", "needs", "verdict", "said"),
    [
        ({"criu": "4.1.1"}, {}, "refuse", "CRIU 4.1.1 on two is older than 4.2.1 on one"),
        ({"kernel": "6.1.0-17-amd64"}, {}, "warn", "kernel 6.1.0-17-amd64 on two is older"),
        ({"machine": "aarch64"}, {}, "refuse", "two is aarch64, one is x86_64"),
        ({"cpu_flags": ["fpu", "avx"]}, {}, "refuse", "the processor of two lacks avx2"),
        ({"cpu_vendor": "AuthenticAMD"}, {}, "warn", "two makers"),
        ({"cgroups": [""]}, {}, "warn", "two has not mounted the control groups memory, pids"),
        (
            {"cgroups": ["memory", "pids"]},
            {"cgroup_mounts": [""]},
            "refuse",
            "sees the control groups of version 2, which two has not mounted",
        ),
        ({"memory_bytes": GIB}, {}, "refuse", "1 GiB of memory available"),
        ({"memory_bytes": 2 * GIB}, {}, "warn", "what of it is shared twice as much"),
        ({"disk_bytes": 5 << 20}, {}, "refuse", "5 MiB of disk for the bundle"),
        ({"disk_files": 10}, {}, "refuse", "can make 10 more files"),
        (
            {"capabilities": 0},
            {"limits": {"nofile": 1_000_000}},
            "refuse",
            "the container's limit nofile is 1000000, two cannot go above 20000",
        ),
        ({"bridges": {}}, {"bridges": ["br0"]}, "refuse", "bridge br0, which the container is on"),
        (
            {"bridges": {"br0": Bridge(delays_ports=True)}},
            {"bridges": ["br0"]},
            "warn",
            "spanning tree",
        ),
    ],
)
def test_a_difference_is_found_named_and_has_a_way_out(
    there: dict[str, Any], needs: dict[str, Any], verdict: str, said: str
) -> None:
    found = findings(HOST, replace(HOST, name="two", **there), replace(NEEDS, **needs))
    assert [finding.verdict for finding in found] == [verdict]
    assert said in found[0].message
    assert found[0].hint.endswith(".")


def test_a_newer_destination_is_no_objection() -> None:
    newer = replace(HOST, criu="4.3.0", kernel="6.18.1", cpu_flags=[*HOST.cpu_flags, "avx512f"])
    assert findings(HOST, newer, NEEDS) == []


def test_kernel_and_criu_flags_that_programs_cannot_use_do_not_matter() -> None:
    assert findings(HOST, replace(HOST, cpu_flags=["fpu", "avx", "avx2"]), NEEDS) == []


# --- the container ---


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        (
            {"obstacles": (Obstacle(verdict="refuse", what="process 7 uses x", hint="No."),)},
            "refuse",
            "process 7 uses x",
        ),
        ({"host_unix_sockets": ("/run/s, process 1 (a)",)}, "refuse", "/run/s, process 1 (a)"),
        (
            {"stdio": (Stdio(descriptor=1, kind="pipe", key="pipe:[1]"),)},
            "warn",
            "standard output of the container is a pipe",
        ),
        (
            {"stdio": (Stdio(descriptor=7, kind="file", key="x", path="/var/log/c"),)},
            "warn",
            "descriptor 7 of the container is /var/log/c",
        ),
        (
            {"stdio": (Stdio(descriptor=0, kind="terminal", key="x", path="/dev/pts/3"),)},
            "refuse",
            "standard input of the container is /dev/pts/3, a terminal of this host",
        ),
        ({"terminal": True}, "refuse", "the container has a terminal"),
    ],
)
def test_what_of_the_container_cannot_follow_is_named(
    change: dict[str, Any], verdict: str, said: str
) -> None:
    found = list(preflight._of_container(replace(FACTS, **change), Plan(kind="own")))
    assert [finding.verdict for finding in found] == [verdict]
    assert said in found[0].message


def test_a_connection_over_the_hosts_network_is_refused_by_name() -> None:
    facts = replace(
        FACTS,
        network=NetworkNamespace(inode=1, kind="host"),
        connections=(
            Connection(
                local="10.0.0.1:80",
                remote="10.0.0.9:4000",
                state="ESTAB",
                is_loopback=False,
                process="7 (httpd)",
            ),
        ),
    )
    found = list(preflight._of_container(facts, Plan(kind="host")))
    assert [finding.verdict for finding in found] == ["refuse", "warn"]
    assert "process 7 (httpd) has a connection 10.0.0.1:80 to 10.0.0.9:4000" in found[0].message


def test_an_obstacle_of_the_network_is_a_finding() -> None:
    plan = Plan(
        kind="own", obstacles=[network.Obstacle(verdict="refuse", what="wg0 is a wg", hint="No.")]
    )
    (found,) = preflight._of_container(FACTS, plan)
    assert (found.verdict, found.message) == ("refuse", "wg0 is a wg")


@pytest.mark.parametrize(
    ("facts", "capabilities", "count"),
    [
        (FACTS, 0, 1),
        (FACTS, 1 << CAP_SYS_RESOURCE, 0),
        (replace(FACTS, user_namespace=True), 0, 0),
    ],
)
def test_another_users_process_needs_a_capability(
    facts: Facts, capabilities: int, count: int
) -> None:
    process = Process(pid=100, inner_pid=5, command="nginx", threads=1, uid=33, memory_bytes=4096)
    found = list(
        preflight._users(
            replace(facts, processes=(process,)), replace(HOST, capabilities=capabilities)
        )
    )
    assert len(found) == count
    assert all("process 5 (nginx) belongs to user 33" in each.message for each in found)


# --- looking for real ---


@pytest.fixture
def question(tmp_path: Path, criu: str) -> Callable[..., dict[str, Any]]:
    def ask(**needs: Any) -> dict[str, Any]:
        here = gather(criu=criu, bundle=str(tmp_path))
        wanted = Needs(container_id="c", **needs)
        asked = {"host": here.to_json(), "needs": asdict(wanted)}
        return json.loads(json.dumps(asked))  # type: ignore[no-any-return]

    return ask


def look(question: dict[str, Any], tmp_path: Path, criu: str) -> list[Finding]:
    store = Store(str(tmp_path / "state"))
    return preflight.look_there(question, store=store, bundle=str(tmp_path / "b"), criu=criu)


@pytest.mark.criu
def test_this_host_itself_would_do(
    question: Callable[..., dict[str, Any]], tmp_path: Path, criu: str
) -> None:
    assert [each.verdict for each in look(question(), tmp_path, criu)] == ["ok"]


@pytest.mark.criu
def test_a_missing_bind_mount_is_named_and_one_that_is_there_stays_where_it_is(
    question: Callable[..., dict[str, Any]], tmp_path: Path, criu: str
) -> None:
    binds = {"/data": str(tmp_path), "/gone": str(tmp_path / "gone"), "/conf": str(tmp_path)}
    found = look(question(binds=binds, writable_binds=["/data", "/gone"]), tmp_path, criu)
    assert [(each.check, each.verdict) for each in found] == [
        ("criu", "ok"),
        ("mounts", "warn"),
        ("mounts", "refuse"),
    ]
    assert "/gone" in found[2].message


@pytest.mark.criu
def test_a_process_number_that_is_taken_is_refused(
    question: Callable[..., dict[str, Any]], tmp_path: Path, criu: str
) -> None:
    found = look(question(pids=[os.getpid()]), tmp_path, criu)
    assert found[-1].check == "pids"


def test_a_criu_that_is_not_there_is_refused_with_its_hint(tmp_path: Path) -> None:
    asked = {"host": HOST.to_json(), "needs": {"container_id": "c"}}
    found = look(asked, tmp_path, "/nonexistent/criu")
    assert (found[0].check, found[0].verdict) == ("criu", "refuse")
    assert found[0].hint


@pytest.mark.parametrize(
    "question",
    [
        None,
        [],
        {},
        {"host": {}, "needs": None},
        {"host": {"memory_bytes": "much"}, "needs": {"container_id": "c"}},
        {"host": {"bridges": {"br0": {"surprise": 1}}}, "needs": {"container_id": "c"}},
        {"host": {}, "needs": {"container_id": 7}},
        {"host": {}, "needs": {"container_id": "c", "binds": []}},
    ],
)
def test_a_question_that_cannot_be_is_refused(question: object, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="preflight"):
        preflight.look_there(question, store=Store(str(tmp_path)), bundle="/b")
