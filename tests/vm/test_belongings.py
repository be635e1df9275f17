"""What a container carries along that a machine without these rights or modules cannot show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.bundles import make_bundle, remove, run_detached
from tests.vm.container import BUNDLE, ID, Container
from tests.vm.machines import Machine, Pair

PROFILE = "migrate-tests"
RULES = f"""
profile {PROFILE} flags=(attach_disconnected) {{
    file,
    capability,
    network,
    signal,
    ptrace,
    deny /secret r,
}}
"""


def test_tasks_of_another_user_than_root_move_in_the_initial_user_namespace(
    unmade: Container,
) -> None:
    """CRIU writes their memory and credentials only where it may raise limits."""
    unmade.create(user=(1234, 1235))
    unmade.live()
    unmade.must_run_on("host2")
    pid = json.loads(unmade.host2.run(["migrate", "state", ID]).stdout)["pid"]
    names = ["grep", "-E", "^(Uid|Gid):", f"/proc/{pid}/status"]
    lines = unmade.host2.run(names).stdout.split()
    assert lines == ["Uid:", *["1234"] * 4, "Gid:", *["1235"] * 4]


@pytest.mark.long
def test_a_link_that_is_slow_and_loses_packets_only_takes_longer(container: Container) -> None:
    slow = "tc qdisc add dev eth0 root"
    for machine in container.pair.machines.values():
        machine.run(f"{slow} handle 1: tbf rate 10mbit burst 32k latency 400ms")
        machine.run("tc qdisc add dev eth0 parent 1:1 handle 10: netem loss 1% limit 1000")
    try:
        container.live()
        container.must_run_on("host2")
    finally:
        for machine in container.pair.machines.values():
            machine.run("tc qdisc delete dev eth0 root")


@pytest.fixture
def profiled(pair: Pair) -> Iterator[Machine]:
    """A machine that has a profile of AppArmor loaded."""
    machine = pair.host1
    machine.run("apparmor_parser --replace --skip-cache", text_in=RULES)
    yield machine
    remove(machine, "/srv/profiled")
    machine.run("apparmor_parser --remove", text_in=RULES)


@pytest.mark.long
def test_a_profile_of_apparmor_holds_before_and_after_the_images(profiled: Machine) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["apparmorProfile"] = PROFILE

    make_bundle(profiled, "/srv/profiled", ["sleep", "10000"], change)
    profiled.run("echo x >/srv/profiled/rootfs/secret; echo y >/srv/profiled/rootfs/open")
    run_detached(profiled, "--bundle", "/srv/profiled", "c1")
    must_be_confined(profiled)
    images = ["--image-path", "/srv/profiled/images"]
    profiled.run(["migrate", "checkpoint", *images, "c1"])
    restore = ["migrate", "restore", "--detach", *images, "--bundle", "/srv/profiled", "c1"]
    profiled.run_detached(restore)
    must_be_confined(profiled)


def must_be_confined(machine: Machine) -> None:
    """Check that the container's first process, and what is executed, has the profile."""
    pid = json.loads(machine.run(["migrate", "state", "c1"]).stdout)["pid"]
    assert machine.run(["cat", f"/proc/{pid}/attr/current"]).stdout == f"{PROFILE} (enforce)\n"
    script = "cat /open && cat /proc/self/attr/current && cat /secret"
    tried = machine.run(["migrate", "exec", "c1", "sh", "-c", script], check=False)
    assert tried.stdout == f"y\n{PROFILE} (enforce)\n"
    assert tried.returncode != 0
    assert "Permission denied" in tried.stderr


@pytest.mark.long
def test_a_profile_that_is_not_loaded_is_refused(pair: Pair) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["apparmorProfile"] = "nobody-has-loaded-this"

    make_bundle(pair.host1, BUNDLE, ["sleep", "10000"], change)
    try:
        done = pair.host1.run(
            f"migrate create --bundle {BUNDLE} c1 </dev/null >/dev/null 2>/tmp/said;"
            " status=$?; cat /tmp/said >&2; rm /tmp/said; exit $status",
            check=False,
        )
        assert done.returncode == 1
        assert "nobody-has-loaded-this" in done.stderr
        assert done.stderr.count("\n") == 1
        assert pair.host1.run(["migrate", "list", "-q"]).stdout == ""
    finally:
        remove(pair.host1, BUNDLE)
