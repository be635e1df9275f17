"""What of a container could not follow, and that it is named."""

from __future__ import annotations

from dataclasses import replace
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
from migrate.live import standing
from migrate.live.host_facts import CAP_SYS_RESOURCE
from migrate.live.network import plan as network
from migrate.live.network.plan import Plan
from tests.live.test_comparison import HOST

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


def test_one_that_can_follow_is_said_to() -> None:
    (found,) = standing.judge(FACTS, Plan(kind="own"), HOST)
    assert found.verdict == "ok"


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
        ({"terminal": True}, "warn", "the container has a terminal"),
        ({"file_locks": ("LEASE lock on inode 1",)}, "refuse", "has a lease on a file"),
    ],
)
def test_what_of_the_container_cannot_follow_is_named(
    change: dict[str, Any], verdict: str, said: str
) -> None:
    facts = replace(FACTS, **change)
    found = [*standing._of_container(facts, Plan(kind="own")), *standing._streams(facts, {})]
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
    found = list(standing._of_container(facts, Plan(kind="host")))
    assert [finding.verdict for finding in found] == ["refuse", "warn"]
    assert "process 7 (httpd) has a connection 10.0.0.1:80 to 10.0.0.9:4000" in found[0].message


def test_an_obstacle_of_the_network_is_a_finding() -> None:
    plan = Plan(
        kind="own", obstacles=[network.Obstacle(verdict="refuse", what="wg0 is a wg", hint="No.")]
    )
    (found,) = standing._of_container(FACTS, plan)
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
        standing._users(
            replace(facts, processes=(process,)), replace(HOST, capabilities=capabilities)
        )
    )
    assert len(found) == count
    assert all("process 5 (nginx) belongs to user 33" in each.message for each in found)
