"""Sockets of kinds that CRIU does not know.

Lives here: asking each socket what it is, and the table of what CRIU carries. May be
imported by `checkpoint` only.

A socket that nobody has bound or connected is in no table of /proc/net, so a copy of its
descriptor is asked. What CRIU takes is in criu/sockets.c and criu/sk-inet.c.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping

from migrate import syscalls
from migrate.checkpoint.facts import Obstacle
from migrate.errors import KernelError

# SO_*, see socket(7). Python's own socket would ask for its address, which not each has.
_DOMAIN, _TYPE, _PROTOCOL = 39, 3, 38
_IPPROTO_MPTCP = 262
_IPPROTO_UDPLITE = 136
_INET_PROTOCOLS = frozenset((0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, _IPPROTO_UDPLITE))
_FAMILIES = frozenset(
    (
        *(socket.AF_UNIX, socket.AF_INET, socket.AF_INET6),
        *(socket.AF_PACKET, socket.AF_NETLINK),
    )
)
# Where the socket's own name says too little.
_PROTOCOLS = {_IPPROTO_MPTCP: "MPTCP", socket.IPPROTO_SCTP: "SCTP", socket.IPPROTO_ICMP: "ICMP"}
_FAMILY_NAMES = {44: "AF_XDP"}


def obstacles(
    sockets: Mapping[int, tuple[int, int]], names: Mapping[int, str]
) -> Iterator[Obstacle]:
    """Yield the sockets that CRIU cannot carry.

    Args:
        sockets: by inode: process and descriptor.
        names: how processes are called in messages.
    """
    for pid, number in sockets.values():
        with contextlib.suppress(OSError, KernelError):  # it was closed, or has ended
            kind = _kind(pid, number)
            if kind:
                mptcp = " Go programs do without it by GODEBUG=multipathtcp=0."
                yield Obstacle(
                    verdict="refuse",
                    what=f"process {names[pid]} has a socket of kind {kind} open as {number}",
                    hint="CRIU cannot carry it; turn its use off in the program's configuration."
                    + (mptcp if kind == "MPTCP" else ""),
                )


def _kind(pid: int, number: int) -> str:
    """Return what a socket is that CRIU does not know, "" for one that it does."""
    pidfd = syscalls.pidfd_open(pid)
    try:
        copy = syscalls.pidfd_getfd(pidfd, number)
    finally:
        os.close(pidfd)
    try:
        family, kind, protocol = (_option(copy, name) for name in (_DOMAIN, _TYPE, _PROTOCOL))
    finally:
        os.close(copy)
    if family not in _FAMILIES:
        with contextlib.suppress(ValueError):
            return _FAMILY_NAMES.get(family) or socket.AddressFamily(family).name
        return f"address family {family}"
    is_inet = family in (socket.AF_INET, socket.AF_INET6)
    if is_inet and kind != socket.SOCK_RAW and protocol not in _INET_PROTOCOLS:
        return _PROTOCOLS.get(protocol, f"protocol {protocol}")
    return ""


def _option(descriptor: int, name: int) -> int:
    """Return a number that a socket knows of itself."""
    answer = syscalls.getsockopt(descriptor, socket.SOL_SOCKET, name, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
