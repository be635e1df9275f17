"""What is said of two hosts, and that it says the way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from migrate.events import Finding
from migrate.live import clocks
from migrate.live.clocks import Difference
from migrate.live.comparison import CHECKS
from migrate.live.host_facts import CAP_SYS_RESOURCE, HostFacts

GIB = 1 << 30

HOST = HostFacts(
    name="one",
    program="0.1.0",
    kernel="6.12.3-amd64",
    machine="x86_64",
    criu="4.2.1",
    lazy_pages=True,
    cpu_vendor="GenuineIntel",
    cpu_flags=["fpu", "avx", "avx2", "ibrs"],
    cpus=[0, 1, 2, 3],
    memory_nodes=[0],
    cgroups=["", "freezer", "memory", "pids"],
    controllers=["devices", "freezer", "memory", "pids"],
    namespaces=["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"],
    filesystems=["proc", "sysfs", "tmpfs"],
    drivers=["c 1", "c 5"],
    seccomp=["allow", "errno", "kill_process"],
    lsm=["capability", "apparmor"],
    apparmor_profiles=["docker-default"],
    memory_bytes=16 * GIB,
    huge_pages={"2048": 8},
    disk_bytes=100 * GIB,
    disk_files=1_000_000,
    state_bytes=GIB,
    pipe_max_bytes=1 << 20,
    open_files_left=1_000_000,
    open_files_most=1 << 20,
    pid_max=1 << 22,
    limits={"nofile": 20000},
    capabilities=(1 << CAP_SYS_RESOURCE) - 1 | 1 << CAP_SYS_RESOURCE,
    is_root=True,
    bridges=["br0"],
)


def compared(there: HostFacts) -> list[Finding]:
    return [
        finding
        for check in CHECKS
        for finding in check.judge(HOST, there, source=HOST.name, there=there.name)
    ]


def objections(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.verdict != "ok"]


def test_two_hosts_alike_have_no_objection_and_each_check_says_so() -> None:
    found = compared(replace(HOST, name="two"))
    assert not objections(found)
    assert len(found) == len(CHECKS)
    assert all("two" in each.message and "{" not in each.message for each in found)


@pytest.mark.parametrize(
    ("there", "verdict", "said"),
    [
        ({"program": "0.2.0"}, "warn", "migrate 0.2.0 on two is not the 0.1.0 of one"),
        ({"criu": "4.1.1"}, "refuse", "CRIU 4.1.1 on two is older than 4.2.1 on one"),
        ({"kernel": "6.1.0-17-amd64"}, "warn", "kernel 6.1.0-17-amd64 on two is older"),
        ({"machine": "aarch64"}, "refuse", "two is aarch64, one is x86_64"),
        ({"cpu_flags": ["fpu", "avx"]}, "refuse", "the processor of two lacks avx2"),
        ({"cpu_vendor": "AuthenticAMD"}, "warn", "two makers"),
        ({"lsm": ["capability"]}, "warn", "apparmor are in force on one, not on two"),
        (
            {"cgroups": ["freezer"]},
            "warn",
            "two has not mounted the control groups of version 2, memory, pids",
        ),
    ],
)
def test_a_difference_is_found_named_and_has_a_way_out(
    there: dict[str, Any], verdict: str, said: str
) -> None:
    found = objections(compared(replace(HOST, name="two", **there)))
    assert [finding.verdict for finding in found] == [verdict]
    assert said in found[0].message
    assert found[0].hint.endswith(".")


def test_a_newer_destination_is_no_objection() -> None:
    newer = replace(
        HOST,
        name="two",
        criu="4.3.0",
        kernel="6.18.1",
        cpu_flags=[*HOST.cpu_flags, "avx512f"],
        lsm=[*HOST.lsm, "selinux"],
    )
    assert not objections(compared(newer))


def test_kernel_and_criu_flags_that_programs_cannot_use_do_not_matter() -> None:
    assert not objections(compared(replace(HOST, cpu_flags=["fpu", "avx", "avx2"])))


# --- clocks ---


def ahead(**seconds: float) -> Difference:
    whole = {"wall_seconds": 0.0, "monotonic_seconds": 0.0, "boot_seconds": 0.0}
    return Difference(within_seconds=0.001, **(whole | seconds))


@pytest.mark.parametrize(
    ("difference", "are_kept", "said"),
    [
        (ahead(), False, []),
        (ahead(wall_seconds=0.9, monotonic_seconds=-0.9, boot_seconds=0.9), False, []),
        (ahead(wall_seconds=90), True, ["the wall clock of two is 90.0 seconds ahead"]),
        (ahead(wall_seconds=-7200), True, ["the wall clock of two is 2.0 hours behind"]),
        (ahead(monotonic_seconds=-864000, boot_seconds=864000), True, []),
        (
            ahead(monotonic_seconds=-864000, boot_seconds=600),
            False,
            [
                "CLOCK_MONOTONIC of two is 10.0 days behind: without time namespaces there it goes",
                "CLOCK_BOOTTIME of two is 10.0 minutes ahead: without time namespaces there it j",
            ],
        ),
        (ahead(monotonic_seconds=-864000), None, []),
    ],
)
def test_what_a_program_sees_of_a_clock_is_said(
    difference: Difference,
    are_kept: bool | None,  # noqa: FBT001 - a test's case
    said: list[str],
) -> None:
    found = objections(list(clocks.judge(difference, there="two", are_kept=are_kept)))
    assert len(found) == len(said)
    for finding, words in zip(found, said, strict=True):
        assert finding.verdict == "warn"
        assert words in finding.message
        assert finding.hint
