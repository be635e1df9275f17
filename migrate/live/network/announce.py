"""Telling a network where an address is now.

Lives here: gratuitous ARP and unsolicited neighbour advertisements, and their sending.
Must not live here: when. `migrate.live.network` only.

Switches learn the port by the frame's source, neighbours update their tables: RFC
5227 section 3 (an announcement is a request for one's own address), RFC 4861
section 7.2.6. Some stacks take only an ARP reply, so both forms are sent.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from migrate.live.network.plan import Interface

_BROADCAST = b"\xff" * 6
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_ICMPV6 = 58
_NEIGHBOUR_ADVERTISEMENT = 136
_FLAG_OVERRIDE = 0x20000000


def send(packets: socket.socket, frames: Iterable[bytes]) -> None:
    """Send them by an AF_PACKET socket, where there is a carrier."""
    for frame in frames:
        try:
            packets.send(frame)
        except OSError:
            return  # whoever is in the container sees that for itself


def frames(interface: Interface) -> list[bytes]:
    """Return the frames that announce all addresses of an interface."""
    mac = bytes.fromhex(interface.mac.replace(":", ""))
    found: list[bytes] = []
    for address in interface.addresses:
        raw = ipaddress.ip_address(address.address).packed
        if len(raw) == 4:
            found += [_arp(mac, raw, operation) for operation in (1, 2)]
        else:
            found.append(_advertisement(mac, raw))
    return found


def _arp(mac: bytes, address: bytes, operation: int) -> bytes:
    target = bytes(6) if operation == 1 else _BROADCAST
    return (
        _BROADCAST
        + mac
        + struct.pack("!HHHBBH", _ETHERTYPE_ARP, 1, 0x0800, 6, 4, operation)
        + mac
        + address
        + target
        + address
    )


def _advertisement(mac: bytes, address: bytes) -> bytes:
    # The target's link-layer address as an option: type 2, one unit of eight bytes.
    body = struct.pack("!I", _FLAG_OVERRIDE) + address + b"\x02\x01" + mac
    pseudo = address + _ALL_NODES + struct.pack("!II", 4 + len(body), _ICMPV6)
    head = struct.pack("!BB", _NEIGHBOUR_ADVERTISEMENT, 0)
    icmp = head + struct.pack("!H", checksum([pseudo, head, b"\0\0", body])) + body
    # Hop limit 255: an advertisement with another one has been forwarded, and is dropped.
    ipv6 = struct.pack("!IHBB", 6 << 28, len(icmp), _ICMPV6, 255) + address + _ALL_NODES
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETHERTYPE_IPV6) + ipv6 + icmp


def checksum(pieces: Iterable[bytes]) -> int:
    """Return the Internet checksum, RFC 1071; each piece has an even length."""
    total = sum(sum(struct.unpack(f"!{len(piece) // 2}H", piece)) for piece in pieces)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
