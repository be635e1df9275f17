"""A container's macvlan is silent until it is switched over, and then has everything."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from migrate.checkpoint import netns
from migrate.errors import NetworkError
from migrate.live.network.build import build, tear_down
from migrate.live.network.describe import describe
from migrate.live.network.plan import Plan
from migrate.live.network.switch import switches_of
from tests.live.subject import ID, NETWORK_ADDRESS, Subject, subject
from tests.support.hosts import Host, Site, wait_until

from .conftest import Net, ip, ip_says
from .test_network import answers, settle


@pytest.fixture
def container(net: Net) -> Iterator[int]:
    """Pid of a process whose namespace has a macvlan on h1's link to the switch."""
    ip("link delete v-ct", at="h1")
    for name in ("h1", "h2"):
        ip("link set up0 nomaster", at=name)
    ip("link add eth0 link up0 netns ct type macvlan mode bridge", at="h1")
    ip(
        "link set eth0 address 02:00:00:99:00:10",
        "address add 10.99.0.10/24 brd + dev eth0",
        "address add fd99::10/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 10.99.0.1",
        at="ct",
    )
    sleeper = net.inside("ct", lambda: subprocess.Popen(["sleep", "60"]))
    yield sleeper.pid
    sleeper.kill()
    sleeper.wait()


def plan_of(net: Net, pid: int) -> Plan:
    plan = net.inside("h1", lambda: describe(pid, "own"))
    assert plan.obstacles == []
    return Plan.from_json(json.loads(json.dumps(plan.to_json())))


def said_in(namespace: int | None, *words: str) -> str:
    """Return what ip(8) prints in a namespace."""
    assert namespace is not None
    return netns.inside(namespace, lambda: subprocess.check_output(["ip", *words], text=True))


def test_it_is_switched_from_one_host_to_the_other_and_back(net: Net, container: int) -> None:
    plan = plan_of(net, container)
    settle(net)
    with (
        net.inside("h1", lambda: switches_of(plan, container)) as here,
        net.inside("h2", lambda: build(plan, lambda _: None)) as there,
    ):
        assert answers(net), "the one that waits took the address"
        here.down()
        subprocess.run(["ip", "-n", "cl", "neighbour", "flush", "all"], check=True)
        assert not answers(net), "the one that waits answers"
        there.switches.up()
        assert answers(net)
        assert answers(net, "fd99::10")
        assert "default via 10.99.0.1" in said_in(there.descriptor, "route")
        assert "fd99::10/64" in said_in(there.descriptor, "-6", "address", "show", "dev", "eth0")
        there.switches.down()
        here.up()
        here.up()
        assert answers(net)
        assert "default via 10.99.0.1" in ip_says("ct", "route")
        net.inside("h2", lambda: tear_down(there.facts))
    assert "up0" in ip_says("h2", "-o", "link"), "the host's own link was removed"


def test_one_in_a_namespace_with_a_name_goes_and_the_link_it_is_on_stays(
    net: Net, container: int
) -> None:
    plan = plan_of(net, container)
    plan.kind, plan.path = "joined", "/run/netns/carried"
    net.add("carried")
    with net.inside("h2", lambda: build(plan, lambda _: None)) as there:
        assert "eth0" in ip_says("carried", "-o", "link")
        for _ in range(2):
            net.inside("h2", lambda: tear_down(there.facts))
        assert "eth0" not in ip_says("carried", "-o", "link")
        assert os.path.exists(plan.path)
    assert "up0" in ip_says("h2", "-o", "link")


def test_a_missing_link_is_named_and_another_one_can_stand_for_it(net: Net, container: int) -> None:
    plan = plan_of(net, container)
    ip("link set up0 down", "link set up0 name lan0", "link set lan0 up", at="h2")
    with pytest.raises(NetworkError, match="link up0, on which") as failure:
        net.inside("h2", lambda: build(plan, lambda _: None))
    assert "--bridge up0=" in failure.value.hint
    plan = plan.with_bridges({"up0": "lan0"})
    with net.inside("h2", lambda: build(plan, lambda _: None)) as there:
        assert there.plan.interfaces[0].host.name == "lan0"


def test_one_that_has_its_link_to_itself_is_refused_by_name(net: Net, container: int) -> None:
    ip("link delete eth0", at="ct")
    ip("link add eth0 link up0 netns ct type macvlan mode passthru", at="h1")
    plan = net.inside("h1", lambda: describe(container, "own"))
    assert "that has up0 to itself" in plan.obstacles[0].what


# --- between two hosts ---


@pytest.fixture
def it(hosts: Site) -> Iterator[Subject]:
    with subject(hosts) as made:
        yield made


def add_macvlan(host: Host) -> str:
    """Make a network namespace with a macvlan on the host's bridge, which has its address."""
    host.run(["ip", "netns", "add", ID])
    host.ip(f"link add eth0 link br0 netns {ID} type macvlan mode bridge")
    commands = f"link set lo up\naddress add {NETWORK_ADDRESS}/24 dev eth0\nlink set eth0 up\n"
    host.run(["ip", "-netns", ID, "-batch", "-"], text_in=commands)
    return f"/run/netns/{ID}"


def test_a_container_moves_with_its_macvlan_and_a_connection(it: Subject) -> None:
    client = it.site.client
    client.run(["ip", "neighbour", "flush", "all"])
    it.make(["nc", "-l", "-p", "7000", "-e", "cat"], network=add_macvlan(it.host1))
    it.start()
    wait_until(lambda: it.exec(it.host1, "netstat", "-ltn").count(":7000"), "it listens")
    said = client.folder("/srv/said")
    reads, writes = os.pipe()
    with (
        open(said, "wb") as file,
        client.popen(["busybox", "nc", NETWORK_ADDRESS, "7000"], stdin=reads, stdout=file) as peer,
    ):
        os.close(reads)
        os.write(writes, b"before\n")
        wait_until(lambda: said.read_text() == "before\n", "it answers")
        it.live()
        it.must_have_moved()
        os.write(writes, b"after\n")
        wait_until(lambda: said.read_text() == "before\nafter\n", "the connection stays")
        os.close(writes)
        peer.wait(10)
    client.run(["rm", "/srv/said"])
    assert "eth0" not in it.host1.run(["ip", "-netns", ID, "-o", "link"]).stdout
