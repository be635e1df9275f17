"""The ports a container has on its host's own network, and whether they are free elsewhere.

Lives here: reading them on the source, and looking for who has them on the destination.
Must not live here: what is said of it (`live.landing`). Imported by `live`.

Only a container without a network namespace has any: its sockets are bound again where
it goes, which fails where another has the port. See proc_pid_net(5) and ip(7).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LISTENING, _UNCONNECTED = 0x0A, 0x07
# Of UDP a socket is bound whether or not it is connected.
_STATES = {"tcp": {_LISTENING}, "udp": {_UNCONNECTED, 0x01}}
_TEXT = re.compile(r"(tcp|udp) (?:\[([0-9a-f:.]+)\]|([0-9.]+)):(\d{1,5})")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is bound: protocol, address and number."""

    protocol: str
    address: Address
    number: int

    def __str__(self) -> str:
        """Return it as it travels and as people write it."""
        is_long = self.address.version == 6
        address = f"[{self.address}]" if is_long else str(self.address)
        return f"{self.protocol} {address}:{self.number}"

    @staticmethod
    def of(text: str) -> Port:
        """Return what `str` wrote.

        Raises:
            ValueError: it is none.
        """
        match = _TEXT.fullmatch(text)
        if match is None or int(match[4]) > 0xFFFF:
            raise ValueError(f"{text!r} is no port")
        return Port(match[1], ipaddress.ip_address(match[2] or match[3]), int(match[4]))

    def meets(self, other: Port) -> bool:
        """Tell whether two cannot be bound at the same time."""
        return (self.protocol, self.number) == (other.protocol, other.number) and (
            self.address == other.address
            or (self.address.is_unspecified and _covers(self.address, other.address))
            or (other.address.is_unspecified and _covers(other.address, self.address))
        )


def bound_by(pids: Iterable[int]) -> list[str]:
    """Return the ports of a container's processes, which are in this host's network."""
    inodes: set[int] = set()
    for pid in pids:
        inodes |= _sockets(pid)
    return sorted({str(port) for port, inode in _ports() if inode in inodes})


def taken(wanted: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the ports that somebody on this host has, and who that is.

    Raises:
        ValueError: what is wanted is no port.
    """
    ports = [Port.of(text) for text in wanted]
    for port, inode in _ports() if ports else ():
        for each in ports:
            if each.meets(port):
                yield str(each), _owner(inode)


def strange(wanted: Iterable[str], own: Iterable[str]) -> Iterator[str]:
    """Yield the ports that are bound to an address which is not among these.

    Raises:
        ValueError: what is wanted is no port.
    """
    here = {ipaddress.ip_address(text.partition("%")[0]) for text in own}
    for text in wanted:
        address = Port.of(text).address
        if not (address.is_unspecified or address.is_loopback or address in here):
            yield text


def _covers(every: Address, address: Address) -> bool:
    """Tell whether the unspecified address stands for another: IPv6's for IPv4, too."""
    return every.version in (address.version, 6)


def _ports() -> Iterator[tuple[Port, int]]:
    """Yield each port that is bound in this network namespace, and its socket's inode."""
    for name in ("tcp", "tcp6", "udp", "udp6"):
        protocol = name[:3]
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/net/{name}") as file:
            next(file)
            for line in file:
                fields = line.split()
                address, number = fields[1].split(":")
                if int(fields[3], 16) in _STATES[protocol] and int(number, 16):
                    yield Port(protocol, _address(address), int(number, 16)), int(fields[9])


def _address(text: str) -> Address:
    """Return an address out of its words, each in the byte order of the machine."""
    raw = bytes.fromhex(text)
    turned = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(turned)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _sockets(pid: int) -> set[int]:
    """Return the inodes of a process's sockets."""
    found = set()
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{number}")
                if link.startswith("socket:["):
                    found.add(int(link[8:-1]))
    return found


def _owner(inode: int) -> str:
    """Return who has a socket, in words."""
    for name in os.listdir("/proc"):
        if name.isdigit() and inode in _sockets(int(name)):
            with contextlib.suppress(OSError), open(f"/proc/{name}/comm", "rb") as file:
                return f"process {name} ({file.read().strip().decode(errors='replace')})"
    return "a process that cannot be seen"
