"""Two hosts' networks, a switch and a client, made of network namespaces."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from migrate.checkpoint import netns

_T = TypeVar("_T")


def ip(*commands: str, at: str = "") -> None:
    """Run commands of ip(8), in a namespace."""
    argv = ["ip", *(["-n", at] if at else []), "-batch", "-"]
    subprocess.run(argv, input="\n".join(commands), text=True, check=True)


def ip_says(at: str, *words: str) -> str:
    """What ip(8) prints in a namespace."""
    return subprocess.check_output(["ip", "-n", at, *words], text=True)


@dataclass
class Net:
    """Namespaces by name: h1 and h2 with a bridge br0 each, sw between them, cl at it."""

    descriptors: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.descriptors[name] = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        ip("link set lo up", at=name)

    def inside(self, name: str, function: Callable[[], _T]) -> _T:
        return netns.inside(self.descriptors[name], function)

    def close(self) -> None:
        for name, fd in self.descriptors.items():
            os.close(fd)
            subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    try:
        for name in ("sw", "h1", "h2", "cl", "ct"):
            made.add(name)
        for name in ("sw", "h1", "h2"):
            ip("link add br0 type bridge forward_delay 0", "link set br0 up", at=name)
        for name in ("h1", "h2"):
            ip(f"link add u-{name} netns sw type veth peer name up0 netns {name}")
            ip("link set up0 master br0 up", at=name)
            ip(f"link set u-{name} master br0 up", at="sw")
        ip("link add u-cl netns sw type veth peer name eth0 netns cl")
        ip("link set u-cl master br0 up", at="sw")
        ip("address add 10.99.0.100/24 dev eth0", "link set eth0 up", at="cl")
        ip("address add fd99::100/64 dev eth0 nodad", at="cl")
        ip("link add v-ct netns h1 type veth peer name eth0 netns ct")
        ip("link set v-ct master br0 up", at="h1")
        ip(
            "link set eth0 address 02:00:00:99:00:10 mtu 1400",
            "address add 10.99.0.10/24 brd + dev eth0",
            "address add 10.99.7.10/32 dev eth0",
            "address add fd99::10/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.99.0.1",
            "route add 192.0.2.0/24 via 10.99.0.2 metric 7 src 10.99.7.10 mtu 1300",
            "route add default via fd99::1",
            "route add 203.0.113.0/24 dev eth0",
            at="ct",
        )
        yield made
    finally:
        made.close()
