"""The walk-through, and a move between two kernels."""

from __future__ import annotations

import json

from tests.vm.container import BUNDLE, ID, Container
from tests.vm.machines import Pair

IMAGES = "/srv/images"


def test_the_machines_are_what_they_are_said_to_be(pair: Pair) -> None:
    facts = {
        machine.run("uname -r; cat /proc/1/comm; stat -f -c %T /sys/fs/cgroup").stdout
        for machine in pair.machines.values()
    }
    (fact,) = facts
    kernel, first, hierarchy = fact.splitlines()
    assert kernel.startswith("6.12.")
    assert (first, hierarchy) == ("systemd", "cgroup2fs")
    boots = {
        each.run("cat /proc/sys/kernel/random/boot_id").stdout for each in (pair.host1, pair.host2)
    }
    assert len(boots) == 2, "they share a kernel"


def test_each_knows_the_other_s_key_from_its_first_moment(pair: Pair) -> None:
    strict = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    assert pair.host1.run(f"{strict} host2 uname -n").stdout == "host2\n"
    assert pair.host2.run(f"{strict} host1 uname -n").stdout == "host1\n"


def test_the_walk_through_and_back_from_images(container: Container) -> None:
    host = container.host1
    before = json.loads(host.run(["migrate", "state", ID]).stdout)
    assert before["status"] == "running"
    host.run(["migrate", "checkpoint", "--image-path", IMAGES, "--tcp-established", ID])
    assert container.status(host) == "absent"
    ticks = len(container.log(host))
    restore = ["migrate", "restore", "--detach", "--image-path", IMAGES, "--tcp-established"]
    host.run_detached([*restore, "--bundle", BUNDLE, ID])
    container.must_run_on("host1")
    assert len(container.log(host)) > ticks


def test_a_container_moves_between_two_kernels_and_nobody_notices(container: Container) -> None:
    said = container.live().stdout
    assert f"{ID} moved from host1 to host2" in said
    container.must_run_on("host2")
