"""The kernel's routing socket: links, addresses, routes, and switching a link.

Lives here: rtnetlink's messages, as far as a container's network needs them. Must
not live here: what a container's network is. `migrate.live.network` only.

Own code and not a library, because the switch must take microseconds from a socket
that was opened long before, and because that socket is made in another namespace
(`places.py`); pyroute2 would cost 110 ms of imports for the same ten messages. See
rtnetlink(7), linux/if_link.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from migrate.errors import NetworkError

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_GETRULE = 34
RTM_GETQDISC = 38
RTM_GETNSID = 90

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_DUMP_INTR = 0x10
_TRIES = 20

IFLA_ADDRESS, IFLA_BROADCAST, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 2, 3, 4, 5
IFLA_MASTER, IFLA_TXQLEN, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_IFALIAS = 10, 13, 16, 18, 20
IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 26, 28, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING = 1, 5, 7
IFLA_INET6_ADDR_GEN_MODE = 8
VETH_INFO_PEER = 1
NETNSA_NSID, NETNSA_FD = 1, 3

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 3, 4, 8
IFA_CACHEINFO, IFA_PROTO = 6, 11
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80
IFA_F_SECONDARY = 0x01
IFA_F_NOPREFIXROUTE = 0x200
IFA_F_MANAGETEMPADDR = 0x100

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
RTA_METRICS, RTA_MULTIPATH, RTA_TABLE, RTA_PREF, RTA_VIA = 8, 9, 15, 20, 18
RTA_ENCAP, RTA_NH_ID = 22, 30

IFF_UP = 0x1

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, proto, scope, type, flags
_BODIES = {
    RTM_NEWLINK: _LINK,
    RTM_NEWADDR: _ADDRESS,
    RTM_NEWROUTE: _ROUTE,
    32: _ROUTE,  # RTM_NEWRULE has a body of the same size
    36: struct.Struct("=BxxxiIII"),  # RTM_NEWQDISC
    88: struct.Struct("=Bxxx"),  # RTM_NEWNSID
}

Attributes = dict[int, bytes]
Message = tuple[tuple[int, ...], Attributes]
"""Body and attributes."""


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """Pack one attribute; a number takes 32 bits, a string its NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    """Pack an attribute that is made of attributes."""
    return attribute(kind | 0x8000, b"".join(inner))


def attributes(raw: bytes | memoryview) -> Attributes:
    """Unpack attributes, by kind, the nesting flag taken off."""
    found: Attributes = {}
    at = 0
    while at + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, at)
        if length < 4 or at + length > len(raw):
            break
        found[kind & 0x3FFF] = bytes(raw[at + 4 : at + length])
        at += length + 3 & ~3
    return found


def number(raw: bytes) -> int:
    """Return an attribute's value as the unsigned number it is."""
    return int.from_bytes(raw, "little" if struct.pack("=H", 1)[0] else "big")


def text(raw: bytes) -> str:
    """Return an attribute's value as a string without its NUL."""
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def link_body(index: int = 0, *, up: bool | None = None, family: int = 0) -> bytes:
    """Pack a link message's body; `up` of None leaves the state alone."""
    return _LINK.pack(family, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)


class RouteSocket:
    """An rtnetlink socket of one network namespace, which it stays in.

    Args:
        sock: AF_NETLINK, NETLINK_ROUTE, made in the namespace; taken over.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sequence = 0
        sock.bind((0, 0))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def request(self, kind: int, body: bytes, *, flags: int = 0, about: str) -> None:
        """Ask for a change and wait for the kernel's answer.

        Args:
            kind: RTM_*.
            body: message body and attributes.
            flags: NLM_F_* beside REQUEST and ACK.
            about: what a failure's message calls it.

        Raises:
            NetworkError: the kernel refused; its error number is in `errno`.
        """
        for _ in self._ask(kind, body, NLM_F_ACK | flags, about):
            pass

    def dump(self, kind: int, *, family: int = 0, about: str = "dump") -> list[Message]:
        """Return all links, addresses, routes or rules.

        Raises:
            NetworkError: the kernel refused.
        """
        # A dump that something changed under is not what there was at any time.
        for _ in range(_TRIES):
            try:
                return self._dump(kind, family, about)
            except _InterruptedDumpError:
                continue
        raise RefusedByKernel(about, errno.EAGAIN)

    def _dump(self, kind: int, family: int, about: str) -> list[Message]:
        body = bytes([family]) + bytes(_BODIES[kind - 2].size - 1)
        return list(self._ask(kind, body, NLM_F_DUMP, about))

    def get(self, kind: int, body: bytes, about: str) -> Message | None:
        """Return the one message that answers, or None.

        Raises:
            NetworkError: the kernel refused.
        """
        return next(iter(list(self._ask(kind, body, NLM_F_ACK, about))), None)

    def _ask(self, kind: int, body: bytes, flags: int, about: str) -> Iterator[Message]:
        self._sequence += 1
        header = _HEADER.pack(
            _HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0
        )
        self._sock.send(header + body)
        interrupted = False
        while True:
            raw = memoryview(self._sock.recv(1 << 18))
            at = 0
            while at + _HEADER.size <= len(raw):
                length, found, found_flags, sequence, _ = _HEADER.unpack_from(raw, at)
                payload = raw[at + _HEADER.size : at + length]
                at += length + 3 & ~3
                if sequence != self._sequence:
                    continue
                if found == _NLMSG_DONE:
                    if interrupted:
                        raise _InterruptedDumpError
                    return
                if found == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", payload)
                    if code:
                        raise RefusedByKernel(about, -code)
                    return
                interrupted = interrupted or bool(found_flags & _NLM_F_DUMP_INTR)
                shape = _BODIES.get(found)
                if shape:
                    yield shape.unpack_from(payload), attributes(payload[shape.size :])

    # --- the changes that a migration makes ---

    def set_up(self, index: int, *, up: bool) -> None:
        """Switch a link, the one call on the frozen path.

        Raises:
            NetworkError: there is no such link any more.
        """
        self.request(RTM_NEWLINK, link_body(index, up=up), about=f"link {index}")

    def set_link(self, index: int, attributes_: Iterable[bytes], about: str) -> None:
        """Change a link's attributes, its state left alone."""
        self.request(RTM_NEWLINK, link_body(index) + b"".join(attributes_), about=about)

    def delete_link(self, index: int, about: str) -> None:
        """Delete a link, and with a veth its other end."""
        self.request(RTM_DELLINK, link_body(index), about=about)


class _InterruptedDumpError(Exception):
    """What was listed changed while it was listed."""


class RefusedByKernel(NetworkError):
    """The kernel answered a request with an error.

    Args:
        about: what was asked for.
        number: the error number.
    """

    def __init__(self, about: str, number: int) -> None:
        super().__init__(f"{about}: {os.strerror(number).lower()}")
        self.errno = number
