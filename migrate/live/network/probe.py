"""Asking a network whether somebody has an address already.

Lives here: the questions of ARP and of neighbour discovery, and their answers. Must not
live here: what follows from them (`live.preflight`). `live` only.

Asked as a host asks that wants the address itself: from no address, RFC 5227 section
2.1.1 and RFC 4862 section 5.4.2, so that nobody's table changes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from migrate.live.network.announce import checksum
from migrate.live.network.plan import is_name

_ALL = 0x0003  # ETH_P_ALL
_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ARP_REPLY = 2
_PACKET_OUTGOING = 4
_FRAME_BYTES = 2048


class Probe:
    """The questions, sent as it is entered; what comes back waits in the sockets.

    Args:
        addresses: each with the bridge to ask on; a bridge that is not there is left out.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._wanted = {ipaddress.ip_address(text).packed: text for text in addresses}
        self._bridges = dict(addresses)
        self._sockets: dict[str, socket.socket] = {}

    def __enter__(self) -> Self:
        for text, bridge in self._bridges.items():
            with contextlib.suppress(OSError):  # not there, or down
                self._send(text, bridge)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._sockets.values():
            each.close()

    def _send(self, text: str, bridge: str) -> None:
        if bridge not in self._sockets:
            if not is_name(bridge):
                return
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._sockets[bridge] = made
            made.bind((bridge, _ALL))
        sock = self._sockets[bridge]
        sock.send(question(ipaddress.ip_address(text).packed, sock.getsockname()[4]))

    def answers(self, seconds: float) -> dict[str, set[str]]:
        """Wait so long, and return the hardware addresses of who has each address."""
        found: dict[str, set[str]] = {}
        deadline = time.monotonic() + seconds
        for each in self._sockets.values():
            while True:
                each.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    frame, origin = each.recvfrom(_FRAME_BYTES)
                except TimeoutError:
                    break
                except OSError:
                    break  # the bridge went down
                answer = None if origin[2] == _PACKET_OUTGOING else read_answer(frame)
                if answer is not None and answer[0] in self._wanted:
                    found.setdefault(self._wanted[answer[0]], set()).add(answer[1].hex(":"))
        return found


def question(address: bytes, mac: bytes) -> bytes:
    """Return the frame that asks who has an address.

    Args:
        mac: of the interface it leaves by.
    """
    if len(address) == 4:
        head = b"\xff" * 6 + mac + struct.pack("!HHHBBH", _ETHERTYPE_ARP, 1, 0x0800, 6, 4, 1)
        return head + mac + bytes(4) + bytes(6) + address
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address[13:]
    body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address
    pseudo = bytes(16) + group + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", checksum([pseudo, body])) + body[4:]
    ipv6 = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + bytes(16) + group
    return b"\x33\x33" + group[12:] + mac + struct.pack("!H", _ETHERTYPE_IPV6) + ipv6 + body


def read_answer(frame: bytes) -> tuple[bytes, bytes] | None:
    """Return an address and who has it, or None where a frame says nothing of that."""
    if len(frame) < 42:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ETHERTYPE_ARP and int.from_bytes(frame[20:22], "big") == _ARP_REPLY:
        return frame[28:32], frame[22:28]
    if kind == _ETHERTYPE_IPV6 and frame[20] == _ICMPV6 and frame[54:55] == bytes([_ADVERTISEMENT]):
        return frame[62:78], frame[6:12]
    return None
