"""A container's macvlan: made silent there, switched over, removed here.

Lives here: whatever is otherwise with a macvlan than with a veth. Must not live here: when
(`switch`, `build`). `migrate.live.network` only.

A macvlan has no end on the host that could be taken off a bridge. On the source it is set
down instead, which stops its frames at once, and gets back what it loses by that. On the
destination it must be up before CRIU restores sockets that are bound to its addresses. So
it is made with a hardware address of its own and in the mode `source`, which takes in
frames of listed senders only, of which there are none: nobody hears of it. The switch
gives it its address and its mode.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from migrate.checkpoint import netns
from migrate.errors import NetworkError
from migrate.live.network import announce, links
from migrate.live.network import rtnetlink as rt
from migrate.live.network.describe import route_socket
from migrate.live.network.links import FoundLink
from migrate.live.network.plan import Interface, Route
from migrate.live.network.rtnetlink import RouteSocket

_IFLA_MACVLAN_MODE = 1
_SOURCE = 16


def find_parent(interface: Interface, found: Mapping[str, FoundLink]) -> int:
    """Return the index of the link on this host that a macvlan belongs on.

    Raises:
        NetworkError: there is none of that name.
    """
    name = interface.host.name
    if name not in found:
        raise NetworkError(
            f"link {name}, on which the container has a macvlan, does not exist on this host",
            f"Name the one that stands for it by --bridge {name}=NAME.",
        )
    return found[name].index


def make(sock: RouteSocket, interface: Interface, parent: int, namespace: int) -> None:
    """Make a macvlan in a namespace, silent; it is down."""
    silent = f"02{os.urandom(5).hex()}"
    body = rt.link_body() + b"".join(
        [
            rt.attribute(rt.IFLA_IFNAME, interface.name),
            rt.attribute(rt.IFLA_ADDRESS, bytes.fromhex(silent)),
            rt.attribute(rt.IFLA_MTU, interface.mtu),
            rt.attribute(rt.IFLA_TXQLEN, interface.queue),
            rt.attribute(rt.IFLA_LINK, parent),
            rt.attribute(rt.IFLA_NET_NS_FD, namespace),
            _mode(_SOURCE),
        ]
    )
    flags = rt.NLM_F_CREATE | rt.NLM_F_EXCL
    sock.request(rt.RTM_NEWLINK, body, flags=flags, about=f"macvlan {interface.name}")


def remove(interfaces: Sequence[Interface], path: str) -> None:
    """Remove macvlans from a namespace that has a name; others end with their namespace."""
    wanted = {each.name for each in interfaces if each.macvlan_mode}
    if not (wanted and path):
        return
    try:
        namespace = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # it has gone, and they with it
    try:
        netns.inside(namespace, lambda: _remove_here(wanted))
    finally:
        os.close(namespace)


def _remove_here(names: set[str]) -> None:
    sock = route_socket()
    try:
        for link in links.links(sock):
            if link.kind == "macvlan" and link.name in names:
                sock.delete_link(link.index, f"link {link.name}")
    finally:
        sock.close()


class MacvlanSwitch:
    """One macvlan of a container, ready to be switched.

    Args:
        interface: as planned.
        routes: through it, inside.
        namespace: the container's; stays the caller's.
        packets: AF_PACKET socket on it; taken over.
        is_ours: it was made by `make`.

    Raises:
        NetworkError: it is not there any more.
    """

    def __init__(
        self,
        interface: Interface,
        routes: list[Route],
        namespace: int,
        packets: socket.socket,
        *,
        is_ours: bool,
    ) -> None:
        self.interface = interface
        self._routes = routes
        self._packets = packets
        self._is_ours = is_ours
        self._frames = announce.frames(interface)
        self._sock: RouteSocket = netns.inside(namespace, route_socket)
        found = {link.name: link for link in links.links(self._sock)}
        if interface.name not in found:
            self.close()
            raise NetworkError(f"link {interface.name} of the container is not there any more")
        self._index = found[interface.name].index

    def down(self) -> None:
        """Cut the container off; may be called again."""
        self._sock.set_up(self._index, up=False)

    def up(self) -> None:
        """Join the container to the network and announce it; may be called again."""
        about = f"macvlan {self.interface.name}"
        if self._is_ours:
            self._sock.set_link(self._index, [_mode(self.interface.macvlan_mode)], about)
            mac = bytes.fromhex(self.interface.mac.replace(":", ""))
            self._sock.set_link(self._index, [rt.attribute(rt.IFLA_ADDRESS, mac)], about)
        if self.interface.is_up:
            self._sock.set_up(self._index, up=True)
            for address in self.interface.addresses:
                links.add_address(self._sock, self._index, address)
            links.add_routes(self._sock, self._routes, {self.interface.name: self._index})
        self.announce()

    def announce(self) -> None:
        """Tell the network where the addresses are. Costs nothing to repeat."""
        announce.send(self._packets, self._frames)

    def close(self) -> None:
        """Let go of the sockets; the link stays as it is."""
        self._packets.close()
        self._sock.close()


def _mode(mode: int) -> bytes:
    return rt.nested(
        rt.IFLA_LINKINFO,
        rt.attribute(rt.IFLA_INFO_KIND, b"macvlan"),
        rt.nested(rt.IFLA_INFO_DATA, rt.attribute(_IFLA_MACVLAN_MODE, mode)),
    )
