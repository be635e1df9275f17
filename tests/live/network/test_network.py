"""A container's network described on one host, built on another and switched over."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from migrate.checkpoint import netns
from migrate.errors import NetworkError
from migrate.live.network.build import Built, build, remove_links, tear_down
from migrate.live.network.describe import describe
from migrate.live.network.plan import Plan
from migrate.live.network.switch import Switches, switches_of

from .conftest import Net, ip, ip_says


@pytest.fixture
def container(net: Net) -> Iterator[int]:
    """Pid of a process in the container's namespace ct."""
    sleeper = net.inside("ct", lambda: subprocess.Popen(["sleep", "60"]))
    yield sleeper.pid
    sleeper.kill()
    sleeper.wait()


def plan_of(net: Net, pid: int) -> Plan:
    plan = net.inside("h1", lambda: describe(pid, "own"))
    return Plan.from_json(json.loads(json.dumps(plan.to_json())))


@pytest.fixture
def built(net: Net, container: int) -> Iterator[Built]:
    plan = plan_of(net, container)
    made = net.inside("h2", lambda: build(plan, lambda _: None))
    yield made
    made.close()
    net.inside("h2", lambda: tear_down(made.facts))


def inside_of(fd: int, *words: str) -> str:
    return netns.inside(fd, lambda: subprocess.check_output(["ip", *words], text=True))


def test_what_is_built_is_what_was_described(built: Built) -> None:
    assert built.descriptor is not None
    for words in (("-4", "route"), ("-6", "route")):
        assert inside_of(built.descriptor, *words).split() == ip_says("ct", *words).split()
    theirs = json.loads(ip_says("ct", "-j", "address", "show", "eth0"))[0]
    ours = json.loads(inside_of(built.descriptor, "-j", "address", "show", "eth0"))[0]
    for key in ("address", "mtu", "txqlen", "operstate"):
        assert ours[key] == theirs[key]
    known = [(a["local"], a["prefixlen"], a.get("broadcast")) for a in theirs["addr_info"]]
    assert [(a["local"], a["prefixlen"], a.get("broadcast")) for a in ours["addr_info"]] == known
    assert not any(a.get("tentative") for a in ours["addr_info"])


def test_settings_of_the_namespace_come_along(net: Net, container: int) -> None:
    def set_them() -> None:
        for name, value in (
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/eth0/rp_filter", "2"),
            ("ipv4/ip_unprivileged_port_start", "80"),
            ("ipv6/conf/eth0/accept_ra", "0"),
        ):
            with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
                file.write(value)

    net.inside("ct", set_them)
    plan = plan_of(net, container)
    with net.inside("h2", lambda: build(plan, lambda _: None)) as built:
        assert built.left_out == []
        assert built.descriptor is not None
        theirs = net.inside("ct", lambda: _sysctls(plan))
        assert netns.inside(built.descriptor, lambda: _sysctls(plan)) == theirs
        net.inside("h2", lambda: tear_down(built.facts))


def _sysctls(plan: Plan) -> dict[str, str]:
    from migrate.live.network import sysctls

    return sysctls.read(plan.sysctls)


def test_nothing_passes_before_the_switch_and_everything_after(
    net: Net, container: int, built: Built
) -> None:
    with net.inside("h1", lambda: switches_of(plan_of(net, container), container)) as here:
        settle(net)
        here.down()
        assert not answers(net)
        built.switches.up()
        assert answers(net)
        assert answers(net, "fd99::10")
        built.switches.down()
        assert not answers(net)
        here.up()
        here.up()
        assert answers(net)


def answers(net: Net, address: str = "10.99.0.10") -> bool:
    """Whether the client's question reaches the container: a closed port says so."""

    def ask() -> bool:
        try:
            socket.create_connection((address, 9), timeout=0.3).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return True

    return net.inside("cl", ask)


def settle(net: Net) -> None:
    """Wait until the links that the test made a moment ago are in use."""
    deadline = time.monotonic() + 5
    while not answers(net):
        assert time.monotonic() < deadline


def test_a_neighbour_learns_the_new_place_from_the_announcement(net: Net, built: Built) -> None:
    listener = net.inside(
        "cl", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    )
    with listener:
        listener.settimeout(2)
        built.switches.up()
        seen: set[str] = set()
        while len(seen) < 4:
            frame = listener.recv(2048)
            if frame[6:12] != bytes.fromhex("020000990010"):
                continue
            if frame[12:14] == b"\x08\x06":
                seen.add(socket.inet_ntoa(frame[28:32]))
            elif frame[12:14] == b"\x86\xdd" and frame[54] == 136:
                seen.add(socket.inet_ntop(socket.AF_INET6, frame[62:78]))
    link_local = {address for address in seen if address.startswith("fe80")}
    assert seen - link_local == {"10.99.0.10", "10.99.7.10", "fd99::10"}
    assert len(link_local) == 1
    built.switches.down()


# --- a connection, moved as CRIU does it ---

_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ, _TCP_REPAIR_OPTIONS = 19, 20, 21, 22
_TCP_REPAIR_WINDOW, _TCP_TIMESTAMP = 29, 24


def take(sock: socket.socket) -> dict[str, Any]:
    """Stop a connection and return its state, see tcp_repair in CRIU's soccr."""
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    state: dict[str, Any] = {"here": sock.getsockname(), "there": sock.getpeername()}
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    options, scales = info[5], info[6]
    state["mss"] = struct.unpack_from("=I", info, 16)[0]
    state["options"], state["scales"] = options, (scales & 15, scales >> 4)
    state["stamp"] = sock.getsockopt(socket.IPPROTO_TCP, _TCP_TIMESTAMP, 4)
    state["window"] = sock.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_WINDOW, 20)
    for queue in (1, 2):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
        state[f"sequence{queue}"] = sock.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ, 4)
    return state


def put(state: dict[str, Any]) -> socket.socket:
    """Make a socket that goes on where another one was stopped."""
    sock = socket.socket()
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, _TCP_REPAIR, 1)
    for queue in (1, 2):
        sock.setsockopt(tcp, _TCP_REPAIR_QUEUE, queue)
        sock.setsockopt(tcp, _TCP_QUEUE_SEQ, state[f"sequence{queue}"])
    sock.bind(state["here"])
    sock.connect(state["there"])
    options = [(2, state["mss"])]
    if state["options"] & 4:
        options.append((3, state["scales"][0] | state["scales"][1] << 16))
    if state["options"] & 2:
        options.append((4, 0))
    if state["options"] & 1:
        options.append((8, 0))
    sock.setsockopt(
        tcp, _TCP_REPAIR_OPTIONS, b"".join(struct.pack("=II", *option) for option in options)
    )
    sock.setsockopt(tcp, _TCP_TIMESTAMP, state["stamp"])
    sock.setsockopt(tcp, _TCP_REPAIR_WINDOW, state["window"])
    return sock


def test_a_connection_goes_on_in_the_other_place(net: Net, container: int, built: Built) -> None:
    assert built.descriptor is not None
    server = net.inside("ct", lambda: socket.create_server(("10.99.0.10", 7000)))
    with (
        server,
        net.inside("cl", lambda: socket.create_connection(("10.99.0.10", 7000))) as client,
        net.inside("h1", lambda: switches_of(plan_of(net, container), container)) as here,
    ):
        client.settimeout(5)
        accepted, _ = server.accept()
        accepted.sendall(b"one")
        assert client.recv(10) == b"one"
        # Cut off and joined again, as after a failure: the connection does not notice.
        here.down()
        here.up()
        accepted.sendall(b"two")
        assert client.recv(10) == b"two"
        here.down()
        state = take(accepted)
        accepted.close()
        with netns.inside(built.descriptor, lambda: put(state)) as moved:
            built.switches.up()
            moved.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 0)
            moved.sendall(b"three")
            assert client.recv(10) == b"three"
            client.sendall(b"four")
            assert moved.recv(10) == b"four"
        built.switches.down()


def destinations(at: str) -> list[tuple[str, str]]:
    return [(route["dst"], route["dev"]) for route in json.loads(ip_says(at, "-j", "route"))]


def test_a_routed_link_without_a_bridge_comes_back_with_its_routes(
    net: Net, container: int
) -> None:
    ip("link add v-two netns h1 type veth peer name eth1 netns ct")
    ip(
        "link set v-two up",
        "address add 169.254.1.1/32 dev v-two",
        "route add 10.55.0.5/32 dev v-two",
        at="h1",
    )
    ip("address add 10.55.0.5/32 dev eth1", "link set eth1 up", at="ct")
    plan = plan_of(net, container)
    assert plan.obstacles == []
    with net.inside("h1", lambda: switches_of(plan, container)) as here:
        before = destinations("h1")
        here.down()
        assert destinations("h1") != before
        here.up()
        assert destinations("h1") == before
        here.down()
        with net.inside("h2", lambda: build(plan, lambda _: None)) as built:
            built.switches.up()
            assert "10.55.0.5 dev v-two" in ip_says("h2", "route")
            net.inside("h2", lambda: tear_down(built.facts))
        here.up()


def names_of_links(at: str) -> list[str]:
    return [link["ifname"] for link in json.loads(ip_says(at, "-j", "link"))]


def test_tear_down_removes_everything_and_may_come_again(net: Net, container: int) -> None:
    before = names_of_links("h2")
    plan = plan_of(net, container)
    plan.kind, plan.path = "joined", "/run/netns/carried"
    noted: list[dict[str, Any]] = []
    built = net.inside("h2", lambda: build(plan, noted.append))
    assert os.path.exists("/run/netns/carried")
    built.close()
    facts = json.loads(json.dumps(noted[0]))
    for _ in range(2):
        net.inside("h2", lambda: tear_down(facts))
    assert names_of_links("h2") == before
    assert not os.path.exists("/run/netns/carried")


def test_tear_down_leaves_a_namespace_that_somebody_else_made_meanwhile(
    net: Net, container: int
) -> None:
    plan = plan_of(net, container)
    plan.kind, plan.path = "joined", "/run/netns/theirs"
    facts = {"plan": plan.to_json(), "path_made": True}  # cut off before it was
    net.add("theirs")
    ip("link add one type veth peer name other", at="theirs")
    net.inside("h2", lambda: tear_down(facts))
    assert os.path.exists(plan.path)
    assert "one" in names_of_links("theirs")


def test_tear_down_leaves_a_link_of_the_same_name_that_is_not_ours(net: Net, built: Built) -> None:
    facts = json.loads(json.dumps(built.facts))
    facts["plan"]["interfaces"][0]["host"]["mac"] = "fe:00:00:00:00:01"
    net.inside("h2", lambda: tear_down(facts))
    assert built.plan.interfaces[0].host.name in ip_says("h2", "-o", "link")


def test_a_namespace_in_use_at_the_path_is_refused_and_kept(net: Net, container: int) -> None:
    plan = plan_of(net, container)
    plan.kind, plan.path = "joined", "/run/netns/cl"
    with pytest.raises(NetworkError, match="in use: it has eth0"):
        net.inside("h2", lambda: build(plan, lambda _: None))
    assert "eth0" in ip_says("cl", "-o", "link")
    plan.path = "/etc/somewhere"
    with pytest.raises(NetworkError, match="outside"):
        net.inside("h2", lambda: build(plan, lambda _: None))


def test_a_missing_bridge_is_named_and_another_one_can_stand_for_it(
    net: Net, container: int
) -> None:
    plan = plan_of(net, container)
    ip("link set br0 name lan0", at="h2")
    with pytest.raises(NetworkError, match="bridge br0 does not exist") as failure:
        net.inside("h2", lambda: build(plan, lambda _: None))
    assert "--bridge br0=" in failure.value.hint
    plan = plan.with_bridges({"br0": "lan0"})
    with net.inside("h2", lambda: build(plan, lambda _: None)) as built:
        assert built.plan.interfaces[0].host.bridge == "lan0"
        net.inside("h2", lambda: tear_down(built.facts))
    with pytest.raises(NetworkError, match="no link of the container is on bridge br7"):
        plan.with_bridges({"br7": "lan0"})


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (["ip link add inner type bridge"], "inner in the container is a bridge"),
        (["ip rule add from 10.0.0.1 table 100"], "routing rules"),
        (["nft add table inet guard"], "packet filter rules (nft table guard)"),
        (
            ["ip route add 198.51.100.0/24 nexthop via 10.99.0.3 nexthop via 10.99.0.4"],
            "route 198.51.100.0/24 has several next hops",
        ),
    ],
)
def test_what_cannot_follow_is_refused_by_name(
    net: Net, container: int, commands: list[str], said: str
) -> None:
    for command in commands:
        net.inside("ct", lambda: subprocess.run(command.split(), check=True))  # noqa: B023
    plan = plan_of(net, container)
    assert [obstacle.verdict for obstacle in plan.obstacles] == ["refuse"]
    assert said in plan.obstacles[0].what


def test_a_link_that_is_not_this_hosts_is_refused_by_name(net: Net, container: int) -> None:
    plan = net.inside("h2", lambda: describe(container, "own"))
    assert "other end is not in this host's" in plan.obstacles[0].what


def test_the_sources_links_go_when_the_container_has_gone(net: Net, container: int) -> None:
    plan = plan_of(net, container)
    for _ in range(2):
        net.inside("h1", lambda: remove_links(plan))
    assert "v-ct" not in ip_says("h1", "-o", "link")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "elsewhere"},
        {"path": "/run/netns/x"},
        {"surprise": 1},
        {"sysctls": {"../kernel/core_pattern": "|/bin/sh"}},
        {"sysctls": {"ipv4/../../kernel/core_pattern": "x"}},
        {"interfaces": [{}]},
        {"routes": [{"destination": "1.2.3.4/99", "family": 4, "interface": "lo"}]},
        {"schema_version": 99},
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    data = {**Plan(kind="own").to_json(), **change}
    with pytest.raises(NetworkError, match="network plan"):
        Plan.from_json(data)


def test_a_container_of_the_hosts_network_moves_nothing(net: Net, container: int) -> None:
    plan = net.inside("h1", lambda: describe(container, "host"))
    with net.inside("h2", lambda: build(plan, lambda _: None)) as built:
        assert built.descriptor is None
        built.switches.up()
        built.switches.down()
    assert threading.active_count() >= 1
    assert isinstance(built.switches, Switches)
