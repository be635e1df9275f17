"""The lock that CRIU leaves in a network namespace which stays when its container goes.

Lives here: finding and removing it. Must not live here: when (`live.departure`). `live`
only.

CRIU keeps packets away by a table of nftables (criu/netfilter.c), which it removes when
the container goes on where it is. After one that ends it leaves it to go with its
namespace; but one that was joined by path stays, and its container may come back to it,
with the very connections that the table drops.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from migrate.checkpoint import netns
from migrate.live.network import rtnetlink as rt
from migrate.live.network.describe import nft_tables

_PREFIX = "CRIU-"
_NETLINK_NETFILTER = 12
_NFNL_BATCH_BEGIN, _NFNL_BATCH_END = 0x10, 0x11
_NFNL_SUBSYS_NFTABLES = 10
_NFT_DELTABLE = _NFNL_SUBSYS_NFTABLES << 8 | 2
_NFPROTO_INET = 1
_NFTA_TABLE_NAME = 1


def remove_locks(path: str) -> None:
    """Remove what CRIU has left in a namespace that has a name; one that is gone has none."""
    with contextlib.suppress(OSError):
        namespace = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            netns.inside(namespace, _remove)
        finally:
            os.close(namespace)


def _remove() -> None:
    """Remove them from the namespace this runs in."""
    for name in nft_tables():
        if name.startswith(_PREFIX):
            _delete(name)


def _delete(name: str) -> None:
    """Delete a table, in a batch of its own as nfnetlink wants it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(2)
        sock.bind((0, 0))
        body = rt.attribute(_NFTA_TABLE_NAME, name)
        sock.send(
            _message(_NFNL_BATCH_BEGIN, rt.NLM_F_REQUEST, 0, _NFNL_SUBSYS_NFTABLES, b"")
            + _message(_NFT_DELTABLE, rt.NLM_F_REQUEST | rt.NLM_F_ACK, _NFPROTO_INET, 0, body)
            + _message(_NFNL_BATCH_END, rt.NLM_F_REQUEST, 0, _NFNL_SUBSYS_NFTABLES, b"")
        )
        sock.recv(4096)  # done, or it was gone already


def _message(kind: int, flags: int, family: int, resource: int, body: bytes) -> bytes:
    """Return one message of nfnetlink; its resource number is in network order."""
    size = 20 + len(body)
    return (
        struct.pack("=IHHII", size, kind, flags, 1, 0)
        + struct.pack("!BBH", family, 0, resource)
        + body
    )
