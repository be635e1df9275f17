"""What a container's network is, as plain data that two hosts understand.

Lives here: the dataclasses, their JSON, and the checks of a plan that came from a
peer. Must not live here: sockets. Imported by `migrate.live`.

    Plan ─ Interface (inside) ─ HostEnd (the other end of the veth, on the host)
         ─ Route, sysctls

Numbers that only the kernel understands (scope, protocol, flags) travel as numbers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from migrate.errors import NetworkError

SCHEMA_VERSION = 1

Kind = Literal["own", "joined", "host"]
_KINDS = ("own", "joined", "host")

_NAME = re.compile(r"[^\s/:\x00-\x1f]{1,15}")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_SYSCTL = re.compile(r"(ipv4|ipv6|core|unix|netfilter)(/[A-Za-z0-9_.\-]+)+")
_MOST = 1024


@dataclass(slots=True, kw_only=True)
class Address:
    """An address of an interface.

    Attributes:
        address: IPv4 or IPv6.
        prefix: length of the network's part.
        peer: the other end's, of a point-to-point link; else "".
        broadcast: or "".
        scope, flags: as ifaddrmsg(7 rtnetlink) has them.
        preferred_seconds, valid_seconds: lifetimes; 2**32-1 is for ever.
    """

    address: str
    prefix: int
    peer: str = ""
    broadcast: str = ""
    scope: int = 0
    flags: int = 0
    preferred_seconds: int = 0xFFFFFFFF
    valid_seconds: int = 0xFFFFFFFF


@dataclass(slots=True, kw_only=True)
class Route:
    """A route that somebody set.

    Attributes:
        destination: network, "" for the default route.
        family: 4 or 6.
        interface: name of the one it leads through.
        gateway: or "".
        source: preferred source address, or "".
        priority: metric.
        table, protocol, scope, kind, flags: as rtmsg(7 rtnetlink) has them.
        metrics: the nested attribute, in hex.
    """

    destination: str
    family: int
    interface: str
    gateway: str = ""
    source: str = ""
    priority: int = 0
    table: int = 254
    protocol: int = 3
    scope: int = 0
    kind: int = 1
    flags: int = 0
    metrics: str = ""


@dataclass(slots=True, kw_only=True)
class HostEnd:
    """The end of a veth pair that is on the host.

    Attributes:
        name: on the host.
        index: on the source; means nothing elsewhere.
        mac: hardware address.
        mtu: bytes.
        bridge: the bridge it is a port of, or "".
        port: the port's settings: number of the attribute (IFLA_BRPORT_*), value.
        addresses: of its own, where it is no port.
        routes: of the host that lead through it, where it is no port.
    """

    name: str
    index: int
    mac: str
    mtu: int
    bridge: str = ""
    port: dict[str, int] = field(default_factory=dict)
    addresses: list[Address] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Interface:
    """An interface in the container: a veth or a macvlan.

    Attributes:
        name: inside.
        mac: hardware address.
        mtu: bytes.
        queue: length of the transmit queue.
        is_up: its state.
        address_mode: how the kernel makes its link-local address, see
            IFLA_INET6_ADDR_GEN_MODE; -1 where it has no IPv6.
        addresses: of it.
        host: the other end; of a macvlan the link on the host that it is on.
        macvlan_mode: see macvlan in ip-link(8); 0 for a veth.
    """

    name: str
    mac: str
    mtu: int
    queue: int
    is_up: bool
    address_mode: int
    host: HostEnd
    addresses: list[Address] = field(default_factory=list)
    macvlan_mode: int = 0

    @property
    def place(self) -> str:
        """The bridge or link of the host that it is on, "" for a routed veth."""
        return self.host.name if self.macvlan_mode else self.host.bridge

    def moved_to(self, place: str) -> Interface:
        """Return it on another bridge or link."""
        end = (
            replace(self.host, name=place)
            if self.macvlan_mode
            else replace(self.host, bridge=place)
        )
        return replace(self, host=end)


@dataclass(slots=True, kw_only=True)
class Obstacle:
    """Something of the network that cannot follow.

    Attributes:
        verdict: refuse, or warn where the container lives on without it.
        what: one line.
        hint: the way out.
    """

    verdict: Literal["refuse", "warn"]
    what: str
    hint: str


@dataclass(slots=True, kw_only=True)
class Plan:
    """A container's network.

    Attributes:
        kind: own (made for it), joined (by a path in config.json), host.
        path: where it was joined.
        loopback_is_up: state of lo.
        interfaces: beside lo.
        routes: set by somebody, not by the kernel for an address.
        sysctls: path below /proc/sys/net, value.
        obstacles: what cannot follow.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    path: str = ""
    loopback_is_up: bool = True
    interfaces: list[Interface] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    obstacles: list[Obstacle] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able data."""
        return asdict(self)

    def with_bridges(self, bridges: Mapping[str, str]) -> Plan:
        """Return the plan for a host on which other bridges stand for these.

        Args:
            bridges: names here, and there.

        Raises:
            NetworkError: no link of the container is on one of them.
        """
        on = {interface.place for interface in self.interfaces}
        if unknown := bridges.keys() - on:
            raise NetworkError(
                f"no link of the container is on bridge {min(unknown)}",
                f"It is on {', '.join(sorted(on - {''})) or 'none'}.",
            )
        return replace(
            self,
            interfaces=[
                each.moved_to(bridges.get(each.place, each.place)) for each in self.interfaces
            ],
        )

    @staticmethod
    def from_json(data: object) -> Plan:
        """Return the plan that `to_json` wrote, every value checked.

        Raises:
            NetworkError: names the value that is missing, unknown or wrong.
        """
        try:
            plan = _plan(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise NetworkError(f"network plan: {error} is missing or unknown") from None
        if plan.schema_version != SCHEMA_VERSION:
            raise NetworkError(
                f"network plan: version {plan.schema_version} is unknown",
                "Use the same version of migrate on both hosts.",
            )
        return plan


def _plan(data: Any) -> Plan:
    values = dict(data)
    interfaces = [_interface(each) for each in _listed(values.pop("interfaces"))]
    routes = [_route(each) for each in _listed(values.pop("routes"))]
    obstacles = [Obstacle(**each) for each in _listed(values.pop("obstacles"))]
    plan = Plan(**values, interfaces=interfaces, routes=routes, obstacles=obstacles)
    _check(plan.kind in _KINDS, "kind", plan.kind)
    _check(
        (plan.path == "") == (plan.kind != "joined")
        and (plan.path == "" or plan.path.startswith("/"))
        and "\0" not in plan.path
        and ".." not in plan.path.split("/"),
        "path",
        plan.path,
    )
    names = [interface.name for interface in interfaces]
    _check(len(set(names)) == len(names) and "lo" not in names, "interfaces", names)
    for route in routes:
        _check(route.interface in {"lo", *names}, "interface", route.interface)
    _check(len(plan.sysctls) <= _MOST, "sysctls", len(plan.sysctls))
    for key, value in plan.sysctls.items():
        _check(bool(_SYSCTL.fullmatch(key)) and ".." not in key.split("/"), "sysctl", key)
        _check(len(value) < 4096 and "\0" not in value, key, value)
    return plan


def _interface(data: Any) -> Interface:
    values = dict(data)
    addresses = [_address(each) for each in _listed(values.pop("addresses"))]
    interface = Interface(**{**values, "host": _host_end(values["host"])}, addresses=addresses)
    _check_link(interface)
    _check(0 <= interface.queue < 1 << 31, "queue", interface.queue)
    _check(interface.macvlan_mode in (0, *MACVLAN_MODES), "mode", interface.macvlan_mode)
    _check(interface.address_mode in range(-1, 4), "address_mode", interface.address_mode)
    return interface


def _host_end(data: Any) -> HostEnd:
    values = dict(data)
    addresses = [_address(each) for each in _listed(values.pop("addresses"))]
    routes = [_route(each) for each in _listed(values.pop("routes"))]
    end = HostEnd(**values, addresses=addresses, routes=routes)
    _check_link(end)
    _check(end.bridge == "" or is_name(end.bridge), "bridge", end.bridge)
    for key, value in end.port.items():
        _check(key.isdigit() and int(key) in PORT_SETTINGS and value in (0, 1), "port", end.port)
    for route in routes:
        _check(route.interface == end.name, "interface", route.interface)
    return end


def _check_link(link: Interface | HostEnd) -> None:
    _check(is_name(link.name), "name", link.name)
    _check(bool(_MAC.fullmatch(link.mac)), "mac", link.mac)
    _check(68 <= link.mtu <= 65535, "mtu", link.mtu)


def _address(data: Any) -> Address:
    address = Address(**data)
    family = _version(address.address)
    _check(0 <= address.prefix <= (32 if family == 4 else 128), "prefix", address.prefix)
    for value in (address.peer, address.broadcast):
        _check(value == "" or _version(value) == family, "address", value)
    numbers = (address.flags, address.preferred_seconds, address.valid_seconds)
    _check(all(0 <= value < 1 << 32 for value in numbers), "address", numbers)
    _check(0 <= address.scope < 256, "scope", address.scope)
    return address


def _route(data: Any) -> Route:
    route = Route(**data)
    _check(route.family in {4, 6}, "family", route.family)
    _check(is_name(route.interface), "interface", route.interface)
    for value in (route.gateway, route.source):
        _check(value == "" or _version(value) == route.family, "route", value)
    if route.destination:
        try:
            network = ipaddress.ip_network(route.destination)
        except ValueError:
            network = None
        _check(network is not None and network.version == route.family, "route", route.destination)
    small = (route.protocol, route.scope, route.kind)
    _check(all(0 <= value < 256 for value in small), "route", small)
    large = (route.priority, route.table, route.flags)
    _check(all(0 <= value < 1 << 32 for value in large), "route", large)
    bytes.fromhex(route.metrics)
    _check(len(route.metrics) < 1024, "metrics", route.metrics)
    return route


# private, vepa and bridge; `passthru` takes the whole link of the host.
MACVLAN_MODES = (1, 2, 4)

# Settings of a bridge port that go along; each is 0 or 1.
PORT_SETTINGS = {
    4: "hairpin",
    5: "guard",
    6: "root_block",
    7: "fastleave",
    8: "learning",
    9: "flood",
    10: "proxy_arp",
    27: "mcast_flood",
    30: "bcast_flood",
    32: "neigh_suppress",
    33: "isolated",
}


def is_name(name: object) -> bool:
    """Whether the kernel takes it as an interface's name."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and name not in {".", ".."}


def _version(address: str) -> int:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        raise NetworkError(f"network plan: {address!r} is no address") from None


def _listed(value: Any) -> list[Any]:
    _check(isinstance(value, list) and len(value) <= _MOST, "list", type(value).__name__)
    return list(value)


def _check(fits: bool, what: str, value: object) -> None:  # noqa: FBT001 - reads as a claim
    if not fits:
        raise NetworkError(f"network plan: {what} cannot be {value!r}")
