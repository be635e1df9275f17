"""Whole migrations: a network namespace of the container's own, and refusals by name."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.live.moving import ADDRESS, BUNDLE, ID, PAYLOAD, Moved, moved
from tests.support.bundle import Config, make_bundle
from tests.support.hosts import Site

MAC = "02:00:00:77:00:50"


@pytest.fixture
def own(hosts: Site) -> Iterator[Moved]:
    """A container whose namespace was made with it, and a veth put in from outside."""
    with moved(hosts) as made:

        def changed(config: Config) -> None:
            config["process"]["args"] = PAYLOAD
            config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "79"}

        host = made.host1
        make_bundle(host.folder(BUNDLE), change=changed)
        host.run_detached(["migrate", "create", "--bundle", BUNDLE, ID])
        pid = json.loads(host.run(["migrate", "state", ID]).stdout)["pid"]
        host.ip(
            f"link add v-own type veth peer name eth0 netns {pid}", "link set v-own master br0 up"
        )
        inside = f"address {MAC}", "mtu 1400", "up"
        commands = [
            *(f"link set eth0 {setting}" for setting in inside),
            f"address add {ADDRESS}/24 dev eth0",
            "address add fd77::50/64 dev eth0 nodad",
            "route add default via 10.77.0.254",
        ]
        for command in commands:
            host.run(["nsenter", "-t", str(pid), "-n", "ip", *command.split()])
        host.run(["migrate", "start", ID])
        # The address belonged to another test's container a moment ago.
        hosts.client.run(["ip", "neighbour", "flush", "all"])
        made._watch()
        yield made


def inside(container: Moved, name: str, *words: str) -> str:
    """What ip(8) says in the container's network namespace."""
    host = container.site.hosts[name]
    pid = json.loads(host.run(["migrate", "state", ID]).stdout)["pid"]
    return host.run(["nsenter", "-t", str(pid), "-n", *words]).stdout


def test_a_namespace_of_its_own_comes_along_with_addresses_routes_and_settings(own: Moved) -> None:
    words = ("ip", "-j", "address", "show", "eth0")
    before = json.loads(inside(own, "host1", *words))[0]
    routes = inside(own, "host1", "ip", "route")
    own.live()
    own.must_run_on("host2")
    after = json.loads(inside(own, "host2", *words))[0]
    for key in ("address", "mtu", "operstate"):
        assert after[key] == before[key]
    known = [(each["local"], each["prefixlen"]) for each in before["addr_info"]]
    assert [(each["local"], each["prefixlen"]) for each in after["addr_info"]] == known
    assert inside(own, "host2", "ip", "route") == routes
    setting = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert inside(own, "host2", "cat", setting).strip() == "79"
    assert "v-own" not in own.host1.run(["ip", "-o", "link"]).stdout
    own.host2.run(["migrate", "live", ID, "--to", "host1"])
    own.must_run_on("host1")
    assert "v-own" not in own.host2.run(["ip", "-o", "link"]).stdout


def test_what_cannot_follow_is_refused_by_name_and_nothing_is_touched(container: Moved) -> None:
    host1, host2 = container.host1, container.host2
    netns = ["ip", "netns", "exec", ID]
    host1.run([*netns, "nft", "add", "table", "inet", "guard"])
    refused = container.live(check=False)
    assert refused.returncode == 1
    assert "packet filter rules (nft table guard)" in refused.stderr
    host1.run([*netns, "nft", "delete", "table", "inet", "guard"])
    with host1.popen([*netns, "sleep", "60"]) as neighbour:
        refused = container.live(check=False)
        neighbour.kill()
        neighbour.wait()
    assert refused.returncode == 1
    assert "(sleep) outside the container uses its network namespace" in refused.stderr
    host2.ip("link set br0 name lan0")
    try:
        refused = container.live(check=False)
        assert not host2.folder(BUNDLE).exists()
        container.must_run_on("host1")
        container.live("--bridge", "br0=lan0")
        container.must_run_on("host2")
    finally:
        host2.ip("link set lan0 name br0")
    assert refused.returncode == 1
    assert "bridge br0, which the container is on, does not exist on host2" in refused.stderr
    assert "--bridge br0=NAME" in refused.stderr
