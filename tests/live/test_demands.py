"""What a container needs, held against what a host has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from migrate.events import Finding
from migrate.live.demands import CHECKS
from migrate.live.host_facts import HostFacts
from migrate.live.needs import Needs
from tests.live.test_comparison import GIB, HOST, objections

THERE = replace(HOST, name="two")
NEEDS = Needs(
    container_id="c",
    memory_bytes=GIB,
    rootfs_bytes=GIB,
    rootfs_files=1000,
    cgroup_mounts=["memory"],
    controllers=["memory"],
    cpus=[0, 3],
    memory_nodes=[0],
    bridges=["br0"],
    namespaces=["mnt", "pid"],
    filesystems=["proc"],
    highest_pid=300,
    open_files=12,
    highest_descriptor=7,
    devices={"/dev/null": "c 1"},
    seccomp=["allow"],
    apparmor_profile="docker-default",
)


def judged(there: HostFacts, needs: Needs) -> list[Finding]:
    return [each for check in CHECKS for each in check.judge(there, needs, there=there.name)]


def test_a_host_that_has_everything_is_no_objection_and_each_check_says_so() -> None:
    found = judged(THERE, NEEDS)
    assert not objections(found)
    assert len(found) == len(CHECKS)
    assert all("two" in each.message and "{" not in each.message for each in found)


def test_who_may_exceed_limits_is_not_held_to_them() -> None:
    wild = replace(
        NEEDS, limits={"nofile": 100_000}, highest_descriptor=90_000, largest_pipe_bytes=8 << 20
    )
    assert not objections(judged(THERE, wild))


@pytest.mark.parametrize(
    ("there", "needs", "verdict", "said"),
    [
        (
            {"cgroups": ["freezer", "memory"]},
            {"cgroup_mounts": [""]},
            "refuse",
            "sees the control groups of version 2, which two has not mounted",
        ),
        (
            {},
            {"controllers": ["hugetlb", "memory"]},
            "refuse",
            "limits by hugetlb, for which two has no",
        ),
        (
            {"namespaces": ["mnt"]},
            {},
            "refuse",
            "the container has a pid namespace, and two makes none",
        ),
        (
            {"cpus": [0, 1]},
            {},
            "refuse",
            "the container is held to processors 0, 3, and two has no 3",
        ),
        ({}, {"memory_nodes": [0, 1]}, "refuse", "to memory nodes 0, 1, and two has no 1"),
        ({}, {"filesystems": ["fuse", "proc"]}, "warn", "two has not loaded fuse"),
        ({}, {"devices": {"/dev/kvm": "c 10"}}, "warn", "/dev/kvm of the container (device c 10)"),
        ({}, {"seccomp": ["allow", "log"]}, "refuse", "filter uses log, which the kernel of two"),
        ({"lsm": []}, {}, "refuse", "profile docker-default, and two has no AppArmor"),
        (
            {},
            {"apparmor_profile": "mine"},
            "refuse",
            "AppArmor profile mine is not loaded on two",
        ),
        ({}, {"selinux_label": "a:b:c"}, "refuse", "labelled a:b:c, and two has no SELinux"),
        ({"memory_bytes": GIB}, {}, "refuse", "1 GiB of memory available"),
        ({"memory_bytes": 2 * GIB}, {}, "warn", "what of it is shared twice as much"),
        (
            {},
            {"huge_bytes": {"2048": 17 << 20}},
            "refuse",
            "9 huge pages of 2048 kB, two has 8 free",
        ),
        ({"disk_bytes": 5 << 20}, {}, "refuse", "5 MiB of disk for the bundle"),
        ({"disk_files": 10}, {}, "refuse", "can make 10 more files"),
        (
            {"capabilities": 0},
            {"limits": {"nofile": 1_000_000}},
            "refuse",
            "the container's limit nofile is 1000000, two cannot go above 20000",
        ),
        (
            {"open_files_most": 1024},
            {"limits": {"nofile": 4096}},
            "refuse",
            "limit nofile is 4096, fs.nr_open on two allows 1024",
        ),
        (
            {"pid_max": 256},
            {},
            "refuse",
            "process numbers go up to 300, kernel.pid_max on two allows 255",
        ),
        (
            {"capabilities": 0},
            {"highest_descriptor": 19_900},
            "refuse",
            "has descriptor 19900 open, logins on two may have 20000",
        ),
        ({"open_files_left": 100}, {}, "refuse", "has 12 files open, two can open 100 more"),
        (
            {"capabilities": 0},
            {"largest_pipe_bytes": 2 << 20},
            "refuse",
            "a pipe of 2097152 bytes, fs.pipe-max-size on two is 1048576",
        ),
        ({"bridges": []}, {}, "refuse", "bridge br0, which the container is on"),
        ({"slow_bridges": ["br0"]}, {}, "warn", "spanning tree"),
    ],
)
def test_what_is_missing_is_found_named_and_has_a_way_out(
    there: dict[str, Any], needs: dict[str, Any], verdict: str, said: str
) -> None:
    found = objections(judged(replace(THERE, **there), replace(NEEDS, **needs)))
    assert [finding.verdict for finding in found] == [verdict]
    assert said in found[0].message
    assert found[0].hint.endswith(".")
