"""What a running container's network is, and what of it cannot follow.

Lives here: looking, on the source. Must not live here: changing anything. Imported
by `migrate.live`.

What can follow is a veth whose other end is on this host, as a port of a bridge or
with addresses and routes of its own. Everything else is named, so that it is refused
before anything is frozen.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping

from migrate import syscalls
from migrate.checkpoint import netns
from migrate.errors import KernelError, NetworkError
from migrate.live.network import links as kernel
from migrate.live.network import rtnetlink as rt
from migrate.live.network import sysctls
from migrate.live.network.links import FoundLink
from migrate.live.network.plan import (
    MACVLAN_MODES,
    PORT_SETTINGS,
    Address,
    HostEnd,
    Interface,
    Kind,
    Obstacle,
    Plan,
    Route,
)
from migrate.live.network.rtnetlink import RouteSocket

# What the kernel makes in every namespace by itself, when the module is there.
FALLBACKS = frozenset(
    {"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}
)
_PLAIN_QDISCS = frozenset({"noqueue", "noop", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo"})
_RULE_PRIORITIES = frozenset({0, 32766, 32767})
_FRA_PRIORITY = 6
_TCA_KIND = 1
_IFLA_MACVLAN_MODE = 1

_NETLINK_NETFILTER = 12
_NFT_GETTABLE = 10 << 8 | 1
_NFTA_TABLE_NAME = 1
_IPT_SO_GET_INFO = 64
_IPT_INFO = struct.Struct("=32sI5I5III")


def describe(pid: int, kind: Kind, *, path: str = "", more_sysctls: Iterable[str] = ()) -> Plan:
    """Return the plan of a container's network.

    Args:
        pid: of its first process.
        kind: own, joined or host, as `checkpoint.inspect` found it.
        path: where the namespace was joined.
        more_sysctls: keys of `linux.sysctl` in config.json, such as `net.core.somaxconn`.

    Raises:
        NetworkError: the namespace cannot be read.
    """
    if kind == "host":
        return Plan(kind=kind)
    plan = Plan(kind=kind, path=path if kind == "joined" else "")
    wanted = [key.replace(".", "/")[4:] for key in more_sysctls if key.startswith("net.")]
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkError(f"process {pid}: {(error.strerror or '').lower()}") from error
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        host = route_socket()
        try:
            found = netns.inside(namespace, lambda: _look_inside(plan, wanted))
            ours = netns.inside(namespace, lambda: _number_of(own))
            number = kernel.namespace_number(host, namespace)
            _add_interfaces(plan, found, host, (number, ours))
        finally:
            host.close()
    finally:
        os.close(own)
        os.close(namespace)
    return plan


def _number_of(namespace: int) -> int:
    """Return the number by which the namespace this runs in knows another one."""
    sock = route_socket()
    try:
        return kernel.namespace_number(sock, namespace)
    finally:
        sock.close()


def route_socket() -> RouteSocket:
    """Return an rtnetlink socket of the namespace this runs in."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    return RouteSocket(socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE))


def _look_inside(plan: Plan, more_sysctls: list[str]) -> list[tuple[FoundLink, list[Address]]]:
    """Note what belongs to the whole namespace; returns its links but lo."""
    sock = route_socket()
    try:
        found = kernel.links(sock)
        addresses = kernel.addresses(sock)
        names = {link.index: link.name for link in found}
        plan.routes, odd = kernel.routes(sock, names)
        for route in odd:
            _refuse(
                plan,
                f"route {route} has several next hops or an encapsulation",
                "Replace it by a plain route, or move the container without it.",
            )
        if any(
            rt.number(values.get(_FRA_PRIORITY, b"")) not in _RULE_PRIORITIES
            for _, values in sock.dump(rt.RTM_GETRULE, about="routing rules")
        ):
            _refuse(
                plan,
                "the container's namespace has routing rules (ip rule)",
                "Remove them; they cannot follow yet.",
            )
        _look_for_shaping(plan, sock, names)
    finally:
        sock.close()
    _look_for_filters(plan)
    plan.loopback_is_up = any(link.name == "lo" and link.is_up for link in found)
    inside = [link for link in found if link.name != "lo" and link.name not in FALLBACKS]
    plan.sysctls = sysctls.read(
        [*sysctls.names(["lo", *(link.name for link in inside)]), *more_sysctls]
    )
    return [(link, addresses.get(link.index, [])) for link in inside]


def _refuse(plan: Plan, what: str, hint: str) -> None:
    plan.obstacles.append(Obstacle(verdict="refuse", what=what, hint=hint))


def _look_for_shaping(plan: Plan, sock: RouteSocket, names: Mapping[int, str]) -> None:
    for (_, index, *_), values in sock.dump(rt.RTM_GETQDISC, about="queueing disciplines"):
        kind = rt.text(values.get(_TCA_KIND, b""))
        if kind not in _PLAIN_QDISCS:
            plan.obstacles.append(
                Obstacle(
                    verdict="warn",
                    what=f"{names.get(index, '?')} in the container has a queueing "
                    f"discipline {kind}, which stays behind",
                    hint="Set it again by `tc` afterwards.",
                )
            )


# --- packet filters ---


def _look_for_filters(plan: Plan) -> None:
    tables = [*(f"nft table {name}" for name in nft_tables()), *_legacy_tables()]
    if tables:
        _refuse(
            plan,
            f"the container's namespace has packet filter rules ({', '.join(tables)})",
            "Remove them, or move the container and set them again; they cannot follow yet.",
        )


def nft_tables() -> list[str]:
    """Return the names of the nftables tables in the namespace this runs in."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    except OSError:
        return []
    found: list[str] = []
    with sock:
        sock.bind((0, 0))
        flags = rt.NLM_F_REQUEST | rt.NLM_F_DUMP
        sock.send(struct.pack("=IHHIIBBH", 20, _NFT_GETTABLE, flags, 1, 0, 0, 0, 0))
        while True:
            raw = memoryview(sock.recv(1 << 18))
            at = 0
            while at + 16 <= len(raw):
                length, kind = struct.unpack_from("=IH", raw, at)
                if kind in {2, 3}:  # NLMSG_ERROR (no nftables in this kernel), NLMSG_DONE
                    return found
                values = rt.attributes(raw[at + 20 : at + length])
                found.append(rt.text(values.get(_NFTA_TABLE_NAME, b"?")))
                at += length + 3 & ~3


def _legacy_tables() -> list[str]:
    """Return the names of the xtables that hold more than their built-in chains."""
    found = []
    for family, level, names in (
        (socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names"),
        (socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names"),
    ):
        try:
            with open(f"/proc/thread-self/net/{names}", encoding="ascii") as file:
                tables = file.read().split()
            with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
                for table in tables:
                    asked = table.encode().ljust(_IPT_INFO.size, b"\0")
                    info = _IPT_INFO.unpack(
                        syscalls.getsockopt(sock.fileno(), level, _IPT_SO_GET_INFO, asked)
                    )
                    # One entry a built-in chain, and the one that ends the table.
                    if info[12] > info[1].bit_count() + 1:
                        found.append(f"{names.partition('_')[0]}tables table {table}")
        except (OSError, KernelError):
            continue
    return found


# --- interfaces ---


def _add_interfaces(
    plan: Plan,
    found: list[tuple[FoundLink, list[Address]]],
    host: RouteSocket,
    numbers: tuple[int, int],
) -> None:
    """Note the links and what they are tied to.

    Args:
        numbers: by which the host's namespace knows the container's, and the other way.
    """
    host_links = {link.index: link for link in kernel.links(host)}
    host_names = {index: link.name for index, link in host_links.items()}
    host_addresses = kernel.addresses(host)
    host_routes, _ = kernel.routes(host, host_names)
    for link, addresses in found:
        if link.kind == "macvlan":
            _add_macvlan(plan, link, addresses, host_links.get(link.other_index), numbers[1])
            continue
        if link.kind != "veth":
            _refuse(
                plan,
                f"interface {link.name} in the container is a "
                f"{link.kind or 'device of the machine'}",
                "Only veth and macvlan can follow; take it out of the container first.",
            )
            continue
        end = next(
            (
                end
                for end in host_links.values()
                if end.kind == "veth"
                and end.other_index == link.index
                and end.index == link.other_index
                and end.other_namespace == numbers[0]
            ),
            None,
        )
        if end is None:
            _refuse(
                plan,
                f"interface {link.name} in the container is a veth whose other end is not "
                "in this host's network namespace",
                "Run migrate in the namespace that has the other end.",
            )
            continue
        bridge = host_links.get(end.master)
        _check_bridge(plan, link.name, bridge)
        plan.interfaces.append(
            Interface(
                name=link.name,
                mac=link.mac,
                mtu=link.mtu,
                queue=link.queue,
                is_up=link.is_up,
                address_mode=link.address_mode,
                addresses=addresses,
                host=_host_end(
                    end,
                    bridge,
                    host_addresses.get(end.index, []),
                    [route for route in host_routes if route.interface == end.name],
                ),
            )
        )
    known = {"lo", *(interface.name for interface in plan.interfaces)}
    plan.routes = [route for route in plan.routes if route.interface in known]


def _add_macvlan(
    plan: Plan, link: FoundLink, addresses: list[Address], parent: FoundLink | None, number: int
) -> None:
    mode = rt.number(link.data.get(_IFLA_MACVLAN_MODE, b""))
    if parent is None or link.other_namespace != number:
        _refuse(
            plan,
            f"interface {link.name} in the container is a macvlan on a link that is not in this "
            "host's network namespace",
            "Run migrate in the namespace that has it.",
        )
    elif mode not in MACVLAN_MODES:
        _refuse(
            plan,
            f"interface {link.name} in the container is a macvlan in a mode ({mode}) that has "
            f"{parent.name} to itself",
            "Use the mode bridge, vepa or private.",
        )
    else:
        plan.interfaces.append(
            Interface(
                name=link.name,
                mac=link.mac,
                mtu=link.mtu,
                queue=link.queue,
                is_up=link.is_up,
                address_mode=link.address_mode,
                addresses=addresses,
                host=HostEnd(name=parent.name, index=parent.index, mac=parent.mac, mtu=parent.mtu),
                macvlan_mode=mode,
            )
        )


def _host_end(
    end: FoundLink, bridge: FoundLink | None, addresses: list[Address], routes: list[Route]
) -> HostEnd:
    settings = {str(kind): end.port[kind][0] & 1 for kind in PORT_SETTINGS if kind in end.port}
    return HostEnd(
        name=end.name,
        index=end.index,
        mac=end.mac,
        mtu=end.mtu,
        bridge=bridge.name if bridge else "",
        port=settings if bridge else {},
        addresses=[] if bridge else addresses,
        routes=[] if bridge else routes,
    )


def _check_bridge(plan: Plan, interface: str, bridge: FoundLink | None) -> None:
    if bridge is None:
        return
    if bridge.kind != "bridge":
        _refuse(
            plan,
            f"interface {interface} in the container is on {bridge.name}, a {bridge.kind}",
            "Only Linux bridges can be had on the other host yet.",
        )
    elif rt.number(bridge.data.get(rt.IFLA_BR_VLAN_FILTERING, b"")):
        _refuse(
            plan,
            f"interface {interface} in the container is on bridge {bridge.name}, which "
            "filters VLANs",
            "The port's VLANs cannot follow yet.",
        )
