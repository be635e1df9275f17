"""Links, addresses and routes of one namespace, between the kernel's form and ours.

Lives here: the translation in both directions, and adding. Must not live here:
which namespace, and why. `migrate.live.network` only.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from migrate.live.network import rtnetlink as rt
from migrate.live.network.plan import Address, Route
from migrate.live.network.rtnetlink import RefusedByKernel, RouteSocket

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7

_RTPROT_KERNEL = 2
_RT_TABLE_LOCAL = 255
_RTM_F_CLONED = 0x200
_RTNH_F_ONLINK = 4
_RTN_MULTICAST = 5
_OPER_UP = b"\x06"
# Whatever else a flag says is the state of the address, or is set by the kernel.
_KEPT_FLAGS = rt.IFA_F_NOPREFIXROUTE | rt.IFA_F_MANAGETEMPADDR
_CACHEINFO = struct.Struct("=IIII")


@dataclass(slots=True, kw_only=True)
class FoundLink:
    """A link as the kernel has it.

    Attributes:
        index: in its namespace.
        name: in its namespace.
        kind: such as `veth`; "" for a device of the machine.
        is_up: administratively.
        is_operational: it has its carrier, too.
        mac: hardware address, or "".
        mtu: bytes.
        queue: length of the transmit queue.
        other_index: of the link it is tied to, or 0.
        other_namespace: number of that link's namespace as seen from here, or -1.
        master: index of its bridge, or 0.
        alias: what `ip link set alias` gave it.
        address_mode: IFLA_INET6_ADDR_GEN_MODE, or -1.
        data: attributes of its kind.
        port: attributes it has as a port of a bridge.
    """

    index: int
    name: str
    kind: str
    is_up: bool
    is_operational: bool
    mac: str
    mtu: int
    queue: int
    other_index: int
    other_namespace: int
    master: int
    alias: str
    address_mode: int
    data: rt.Attributes = field(default_factory=dict)
    port: rt.Attributes = field(default_factory=dict)


def links(sock: RouteSocket) -> list[FoundLink]:
    """Return all links of the socket's namespace."""
    return [_link(message) for message in sock.dump(rt.RTM_GETLINK, about="links")]


def _link(message: rt.Message) -> FoundLink:
    (_, _, index, flags, _), found = message
    info = rt.attributes(found.get(rt.IFLA_LINKINFO, b""))
    kinds = rt.attributes(found.get(rt.IFLA_AF_SPEC, b""))
    inet6 = rt.attributes(kinds.get(AF_INET6, b""))
    mode = inet6.get(rt.IFLA_INET6_ADDR_GEN_MODE)
    is_port = rt.text(info.get(rt.IFLA_INFO_SLAVE_KIND, b"")) == "bridge"
    return FoundLink(
        index=index,
        name=rt.text(found[rt.IFLA_IFNAME]),
        kind=rt.text(info.get(rt.IFLA_INFO_KIND, b"")),
        is_up=bool(flags & rt.IFF_UP),
        is_operational=found.get(rt.IFLA_OPERSTATE) == _OPER_UP,
        mac=found.get(rt.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found, rt.IFLA_MTU),
        queue=_number(found, rt.IFLA_TXQLEN),
        other_index=_number(found, rt.IFLA_LINK),
        other_namespace=_signed(found.get(rt.IFLA_LINK_NETNSID)),
        master=_number(found, rt.IFLA_MASTER),
        alias=rt.text(found.get(rt.IFLA_IFALIAS, b"")),
        address_mode=-1 if mode is None else mode[0],
        data=rt.attributes(info.get(rt.IFLA_INFO_DATA, b"")),
        port=rt.attributes(info.get(rt.IFLA_INFO_SLAVE_DATA, b"")) if is_port else {},
    )


def _number(found: Mapping[int, bytes], kind: int) -> int:
    return rt.number(found.get(kind, b""))


def _signed(raw: bytes | None) -> int:
    return -1 if raw is None else int(struct.unpack("=i", raw)[0])


def namespace_number(sock: RouteSocket, namespace_fd: int) -> int:
    """Return the number that the socket's namespace knows another one by, or -1."""
    body = bytes(4) + rt.attribute(rt.NETNSA_FD, namespace_fd)
    answer = sock.get(rt.RTM_GETNSID, body, "network namespace")
    return -1 if answer is None else _signed(answer[1].get(rt.NETNSA_NSID))


# --- addresses ---


def addresses(sock: RouteSocket) -> dict[int, list[Address]]:
    """Return the addresses of each link, by its index, the first one first."""
    found: dict[int, list[Address]] = {}
    for (family, prefix, few, scope, index), values in sock.dump(rt.RTM_GETADDR, about="addresses"):
        if family not in {AF_INET, AF_INET6}:
            continue
        local = values.get(rt.IFA_LOCAL) or values[rt.IFA_ADDRESS]
        far = values.get(rt.IFA_ADDRESS, local)
        flags = rt.number(values[rt.IFA_FLAGS]) if rt.IFA_FLAGS in values else few
        preferred, valid, _, _ = _CACHEINFO.unpack(
            values.get(rt.IFA_CACHEINFO, b"\xff" * _CACHEINFO.size)
        )
        found.setdefault(index, []).append(
            Address(
                address=_ip(local),
                prefix=prefix,
                peer="" if far == local else _ip(far),
                broadcast=_ip(values[rt.IFA_BROADCAST]) if rt.IFA_BROADCAST in values else "",
                scope=scope,
                flags=flags & _KEPT_FLAGS,
                preferred_seconds=preferred,
                valid_seconds=valid,
            )
        )
    return found


def add_address(sock: RouteSocket, index: int, address: Address) -> None:
    """Give a link an address; one that it has already is no failure.

    An IPv6 address is usable at once: nobody else has it, it only moves.
    """
    raw = ipaddress.ip_address(address.address).packed
    is_v6 = len(raw) == 16
    flags = address.flags | (rt.IFA_F_NODAD if is_v6 else 0)
    parts = [
        rt.attribute(rt.IFA_LOCAL, raw),
        rt.attribute(rt.IFA_ADDRESS, _packed(address.peer) or raw),
        rt.attribute(rt.IFA_FLAGS, flags),
        rt.attribute(
            rt.IFA_CACHEINFO,
            _CACHEINFO.pack(address.preferred_seconds, address.valid_seconds, 0, 0),
        ),
    ]
    if address.broadcast:
        parts.append(rt.attribute(rt.IFA_BROADCAST, _packed(address.broadcast)))
    family = AF_INET6 if is_v6 else AF_INET
    head = struct.pack("=BBBBi", family, address.prefix, flags & 0xFF, address.scope, index)
    _add(sock, rt.RTM_NEWADDR, head + b"".join(parts), f"address {address.address}")


def _add(sock: RouteSocket, kind: int, body: bytes, about: str) -> None:
    try:
        sock.request(kind, body, flags=rt.NLM_F_CREATE | rt.NLM_F_EXCL, about=about)
    except RefusedByKernel as error:
        if error.errno != errno.EEXIST:
            raise


def _ip(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed if address else b""


# --- routes ---


def routes(sock: RouteSocket, names: Mapping[int, str]) -> tuple[list[Route], list[str]]:
    """Return the routes that somebody set, and those that have no form here, in words.

    Args:
        sock: of the namespace.
        names: of its links, by index.
    """
    found: list[Route] = []
    odd: list[str] = []
    for body, values in sock.dump(rt.RTM_GETROUTE, about="routes"):
        family, prefix, _, tos, table, protocol, scope, kind, flags = body
        table = rt.number(values[rt.RTA_TABLE]) if rt.RTA_TABLE in values else table
        if (
            family not in {AF_INET, AF_INET6}
            or protocol == _RTPROT_KERNEL
            or table == _RT_TABLE_LOCAL
            or kind == _RTN_MULTICAST
            or flags & _RTM_F_CLONED
        ):
            continue
        network = f"{_ip(values[rt.RTA_DST])}/{prefix}" if rt.RTA_DST in values else ""
        unknown = {rt.RTA_MULTIPATH, rt.RTA_NH_ID, rt.RTA_ENCAP, rt.RTA_VIA} & values.keys()
        if unknown or tos or rt.RTA_OIF not in values:
            odd.append(network or "default")
            continue
        found.append(
            Route(
                destination=network,
                family=4 if family == AF_INET else 6,
                interface=names.get(rt.number(values[rt.RTA_OIF]), "?"),
                gateway=_ip(values[rt.RTA_GATEWAY]) if rt.RTA_GATEWAY in values else "",
                source=_ip(values[rt.RTA_PREFSRC]) if rt.RTA_PREFSRC in values else "",
                priority=_number(values, rt.RTA_PRIORITY),
                table=table,
                protocol=protocol,
                scope=scope,
                kind=kind,
                flags=flags & _RTNH_F_ONLINK,
                metrics=values.get(rt.RTA_METRICS, b"").hex(),
            )
        )
    return found, odd


def add_routes(sock: RouteSocket, wanted: Iterable[Route], indices: Mapping[str, int]) -> None:
    """Add routes; those that lead straight to a link before those through a gateway."""
    for route in sorted(wanted, key=lambda route: bool(route.gateway)):
        family = AF_INET if route.family == 4 else AF_INET6
        network = ipaddress.ip_network(route.destination) if route.destination else None
        head = struct.pack(
            "=BBBBBBBBI",
            family,
            network.prefixlen if network else 0,
            0,
            0,
            route.table if route.table < 256 else 0,
            route.protocol,
            route.scope,
            route.kind,
            route.flags,
        )
        parts = [
            rt.attribute(rt.RTA_OIF, indices[route.interface]),
            rt.attribute(rt.RTA_TABLE, route.table),
        ]
        if network:
            parts.append(rt.attribute(rt.RTA_DST, network.network_address.packed))
        if route.gateway:
            parts.append(rt.attribute(rt.RTA_GATEWAY, _packed(route.gateway)))
        if route.source:
            parts.append(rt.attribute(rt.RTA_PREFSRC, _packed(route.source)))
        if route.priority:
            parts.append(rt.attribute(rt.RTA_PRIORITY, route.priority))
        if route.metrics:
            parts.append(rt.attribute(rt.RTA_METRICS | 0x8000, bytes.fromhex(route.metrics)))
        about = f"route {route.destination or 'default'}"
        _add(sock, rt.RTM_NEWROUTE, head + b"".join(parts), about)
