"""What is said of one host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from migrate.live import machine
from tests.live.test_comparison import HOST, objections


def test_a_host_that_lacks_nothing_is_described() -> None:
    found = machine.judge(HOST, thorough=True)
    assert not objections(found)
    text = "\n".join(each.message for each in found)
    for words in ("CRIU 4.2.1", "hashes of the pages", "bridges: br0", "16 GiB of memory"):
        assert words in text


@pytest.mark.parametrize(
    ("host", "verdict", "said"),
    [
        ({"criu": "4.1.1"}, "refuse", "CRIU 4.1.1 is older than 4.2.0"),
        ({"criu": "", "criu_problem": "no criu", "criu_hint": "Get it."}, "refuse", "no criu"),
        ({"is_root": False}, "refuse", "migrate does not run as root"),
        ({"capabilities": 1 << 24}, "refuse", "lacks CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_NET_ADMIN"),
        ({"kernel": "5.4.0"}, "refuse", "kernel 5.4.0 is older than 5.6"),
        ({"cgroups": ["memory"]}, "refuse", "no control groups with a freezer"),
        ({"lazy_pages": False}, "warn", "no userfaultfd"),
        ({"namespaces": HOST.namespaces[:-1]}, "warn", "no uts namespace can be made"),
        ({"seccomp": []}, "warn", "no system call filters"),
        ({"state_bytes": 1 << 20}, "warn", "1 MiB are left where the containers' state is"),
        ({"limits": {"nofile": 1024}}, "warn", "this login may have 1024 files open"),
    ],
)
def test_what_it_lacks_is_named_and_has_a_way_out(
    host: dict[str, Any], verdict: str, said: str
) -> None:
    found = objections(machine.judge(replace(HOST, **host), thorough=True))
    assert [each.verdict for each in found] == [verdict]
    assert said in found[0].message
    assert found[0].hint.endswith(".")


def test_without_the_capability_small_pipes_and_other_users_matter() -> None:
    confined = replace(HOST, capabilities=HOST.capabilities & ~(1 << 24))
    said = [each.message for each in objections(machine.judge(confined, thorough=True))]
    assert len(said) == 2
    assert "CAP_SYS_RESOURCE" in said[0]
    assert "fs.pipe-max-size is 1048576, CRIU needs 4194304" in said[1]
    assert not objections(machine.judge(confined, thorough=False))
