"""`checkpoint.settings`: what config.json asks for and CRIU does not bring back."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.checkpoint.inspect import binds
from migrate.checkpoint.settings import obstacles
from tests.checkpoint.conftest import Maker
from tests.oci.seccomp import Agent, profile, rule
from tests.support.bundle import Config

BIND = {"destination": "/x", "type": "bind", "source": "/y"}
ASKING = profile(
    "ALLOW", rule("ERRNO", "umask"), rule("NOTIFY", "mkdir", "mknod"), rule("NOTIFY", "mkdir")
)
IDS = [{"containerID": 0, "hostID": 1000, "size": 1}]


@pytest.mark.parametrize(
    ("spec", "verdict", "said"),
    [
        ({"mounts": [{**BIND, "options": ["bind", "idmap"]}]}, "refuse", "mount /x maps ids"),
        ({"mounts": [{**BIND, "options": ["bind", "ridmap"]}]}, "refuse", "mount /x maps ids"),
        ({"mounts": [{**BIND, "uidMappings": IDS}]}, "refuse", "mount /x maps ids"),
        ({"linux": {"netDevices": {"eth7": {}}}}, "refuse", "network device eth7"),
        ({"linux": {"seccomp": ASKING}}, "refuse", "(mkdir, mknod)"),
        ({"linux": {"memoryPolicy": {"mode": "MPOL_BIND"}}}, "warn", "$.linux.memoryPolicy"),
        ({"linux": {"intelRdt": {"closID": "a"}}}, "warn", "$.linux.intelRdt"),
    ],
)
def test_what_does_not_come_back_is_said(spec: dict[str, Any], verdict: str, said: str) -> None:
    (found,) = obstacles(spec)
    assert found.verdict == verdict
    assert said in found.what
    assert found.hint


def test_an_ordinary_configuration_has_nothing_of_it() -> None:
    filtered = {"seccomp": profile("ALLOW", rule("ERRNO", "umask"), listenerPath="/nobody")}
    spec = {"mounts": [{**BIND, "options": ["rbind", "ro"]}], "linux": filtered, "process": {}}
    assert list(obstacles(spec)) == []


def test_a_remount_is_no_source_of_what_it_changes() -> None:
    remount = {"destination": "/x", "options": ["bind", "remount", "ro"]}
    assert binds({"mounts": [BIND, remount]}, "/bundle") == {"/x": "/y"}


@pytest.mark.criu
def test_a_checkpoint_that_would_lose_a_map_of_ids_is_refused_and_it_runs_on(box: Maker) -> None:
    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/mnt", "type": "bind", "source": "/usr/share", "options": ["bind"]}
            | {"uidMappings": IDS, "gidMappings": IDS}
        )

    made = box("sleep", "1000", change=change)
    made.start()
    assert made.checkpoint(check=False) == 1
    assert "mount /mnt maps ids" in made.said
    assert made.status == "running"


@pytest.mark.criu
def test_a_container_whose_calls_an_agent_answers_is_refused_and_it_runs_on(box: Maker) -> None:
    with Agent() as agent:
        asking = profile("ALLOW", rule("NOTIFY", "mkdir"), listenerPath=agent.path)
        made = box("sleep", "1000", change=lambda config: config["linux"].update(seccomp=asking))
        made.start()
        agent.receive()
        assert made.checkpoint(check=False) == 1
        assert "an agent outside answers for system calls of the container (mkdir)" in made.said
        assert "SCMP_ACT_NOTIFY" in made.said
        assert not made.images.exists()
        assert made.status == "running"
