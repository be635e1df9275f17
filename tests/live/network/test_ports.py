"""Ports of a container on its host's own network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from migrate.live.network import ports
from migrate.live.network.ports import Port
from tests.live.subject import Subject, subject
from tests.support.bundle import Config
from tests.support.hosts import Site, wait_until

NUMBER = 7070


@pytest.mark.parametrize(
    ("one", "other", "they_meet"),
    [
        ("tcp 0.0.0.0:80", "tcp 0.0.0.0:80", True),
        ("tcp 0.0.0.0:80", "tcp 10.0.0.1:80", True),
        ("tcp 10.0.0.2:80", "tcp 10.0.0.1:80", False),
        ("tcp [::]:80", "tcp 10.0.0.1:80", True),
        ("tcp [::1]:80", "tcp 0.0.0.0:80", False),
        ("tcp 0.0.0.0:80", "tcp 0.0.0.0:81", False),
        ("tcp 0.0.0.0:80", "udp 0.0.0.0:80", False),
    ],
)
def test_which_ports_meet(one: str, other: str, they_meet: bool) -> None:  # noqa: FBT001
    assert Port.of(one).meets(Port.of(other)) is they_meet
    assert Port.of(other).meets(Port.of(one)) is they_meet
    assert str(Port.of(one)) == one


@pytest.mark.parametrize("text", ["", "tcp 1:2", "tcp 1.2.3.4:99999", "tcp [x]:1", "icmp ::1:1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Port.of(text)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_ones_own_ports_are_found_with_their_owner(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        mine = f"{protocol} 127.0.0.1:{sock.getsockname()[1]}"
        assert mine in ports.bound_by([os.getpid()])
        owner = next(owner for _, owner in ports.taken([mine]))
        assert owner.startswith(f"process {os.getpid()} (")
    assert not list(ports.taken([mine]))


def test_an_address_of_another_host_is_strange() -> None:
    wanted = ["tcp 0.0.0.0:1", "tcp 127.0.0.1:1", "tcp 10.0.0.1:1", "udp 10.0.0.2:1"]
    assert list(ports.strange(wanted, ["10.0.0.1"])) == ["udp 10.0.0.2:1"]


# --- between two hosts ---


@pytest.fixture
def it(hosts: Site) -> Iterator[Subject]:
    """A container on its host's network that answers on a port."""

    def change(config: Config) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [each for each in spaces if each["type"] != "network"]

    with subject(hosts) as made:
        made.make(["nc", "-ll", "-p", str(NUMBER), "-e", "echo", "hello"], change)
        made.start()
        wait_until(lambda: answer(made, "10.77.0.1") == "hello\n", "it answers")
        yield made


def answer(it: Subject, address: str) -> str:
    done = it.site.client.run(["busybox", "nc", address, str(NUMBER)], check=False)
    return done.stdout


def test_a_free_port_is_taken_on_the_other_host(it: Subject) -> None:
    done = it.live()
    assert "uses the host's network" in done.stderr
    it.must_have_moved()
    assert answer(it, "10.77.0.2") == "hello\n"
    assert answer(it, "10.77.0.1") == ""


def test_a_port_in_use_is_refused_by_name(it: Subject) -> None:
    command = ["busybox", "nc", "-ll", "-p", str(NUMBER), "-e", "true"]
    with it.host2.popen(command) as other:
        wait_until(lambda: f":{NUMBER}" in it.host2.run(["ss", "-ltn"]).stdout, "it listens")
        done = it.live(check=False)
        assert done.returncode == 1
        assert f"port tcp 0.0.0.0:{NUMBER} of the container" in done.stderr or (
            f"port tcp [::]:{NUMBER} of the container" in done.stderr
        )
        assert f"in use on host2 by process {other.inner_pid} (busybox)" in done.stderr
    assert it.status(it.host1) == "running"
    assert it.status(it.host2) == "absent"
