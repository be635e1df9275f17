"""Looking into a network namespace, and making one.

Lives here: what CRIU's options need of it: which interfaces there are, who is at the
other end of a UNIX socket, a fresh namespace whose lo is as it was. Must not live
here: veth, addresses, routes (`live.network`). May be imported by `checkpoint` and
`live.network`.

A namespace is entered by a thread made for that and ended at once: setns(2) and
unshare(2) of a network namespace concern the calling thread alone.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from migrate import syscalls

_T = TypeVar("_T")
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ_FLAGS = struct.Struct("16sH22x")

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_UDIAG_SHOW_NAME_PEER = 1 | 4
_UNIX_DIAG_NAME = 0
_UNIX_DIAG_PEER = 2
_NLMSGHDR = struct.Struct("=IHHII")
_UNIX_DIAG_REQ = struct.Struct("=BBHIIIII")
_UNIX_DIAG_MSG = struct.Struct("=BBBBIII")
_RTATTR = struct.Struct("=HH")
_DIAG_BYTES = 1 << 16


def inside(namespace: int, function: Callable[[], _T]) -> _T:
    """Return what the function returns inside a network namespace.

    Args:
        namespace: descriptor of it; stays the caller's.
    """
    return _in_a_thread(lambda: syscalls.setns(namespace, syscalls.CLONE_NEWNET), function)


def fresh(*, loopback_is_up: bool) -> int:
    """Return a descriptor of a new network namespace; the caller closes it."""

    def made() -> int:
        if loopback_is_up:
            _set_up("lo")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _in_a_thread(lambda: syscalls.unshare(syscalls.CLONE_NEWNET), made)


def interfaces() -> dict[str, bool]:
    """Return the interfaces of the namespace this runs in, and whether each is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return {name: bool(_flags(any_socket, name) & _IFF_UP) for _, name in socket.if_nameindex()}


@dataclass(slots=True, frozen=True)
class UnixSocket:
    """One UNIX socket.

    Attributes:
        peer: inode of the one it is connected to, 0 for none.
        name: its own; an abstract one begins with `@`.
        is_datagram: it can be connected again without anybody noticing.
    """

    peer: int
    name: str
    is_datagram: bool


def unix_sockets() -> dict[int, UnixSocket]:
    """Return the UNIX sockets of the namespace this runs in by inode, see sock_diag(7)."""
    found: dict[int, UnixSocket] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.bind((0, 0))
        body = _UNIX_DIAG_REQ.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_NAME_PEER, 0, 0)
        size = _NLMSGHDR.size + len(body)
        head = _NLMSGHDR.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
        netlink.send(head + body)
        while True:
            data = netlink.recv(_DIAG_BYTES)
            at = 0
            while at + _NLMSGHDR.size <= len(data):
                length, kind, *_ = _NLMSGHDR.unpack_from(data, at)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                body_at = at + _NLMSGHDR.size
                _, kind, _, _, inode, _, _ = _UNIX_DIAG_MSG.unpack_from(data, body_at)
                attributes = data[body_at + _UNIX_DIAG_MSG.size : at + length]
                is_datagram = kind == socket.SOCK_DGRAM
                found[inode] = UnixSocket(*_peer_and_name(attributes), is_datagram)
                at += _aligned(length)


def _peer_and_name(data: bytes) -> tuple[int, str]:
    """Return the two attributes asked for."""
    peer, name = 0, ""
    at = 0
    while at + _RTATTR.size <= len(data):
        length, kind = _RTATTR.unpack_from(data, at)
        value = data[at + _RTATTR.size : at + length]
        if kind == _UNIX_DIAG_PEER:
            peer = int.from_bytes(value[:4], "little")
        elif kind == _UNIX_DIAG_NAME:
            abstract = value[:1] == b"\0"
            name = ("@" if abstract else "") + os.fsdecode(value[abstract:].rstrip(b"\0"))
        at += _aligned(length)
    return peer, name


def _aligned(length: int) -> int:
    """Return a netlink length with its padding."""
    return (length + 3) & ~3


def _flags(any_socket: socket.socket, name: str) -> int:
    """Return an interface's flags, see netdevice(7)."""
    request = _IFREQ_FLAGS.pack(name.encode(), 0)
    answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
    return int(_IFREQ_FLAGS.unpack(answer)[1])


def _set_up(name: str) -> None:
    """Bring an interface up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = _flags(any_socket, name) | _IFF_UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), flags))


def _in_a_thread(enter: Callable[[], None], function: Callable[[], _T]) -> _T:
    """Run both in a thread that ends with them; raise what they raise."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter()
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
