"""The switch of a container's link: off here, on there, without a fork or a wait.

Lives here: the prepared sockets, and the few requests on the frozen path. Must not
live here: making links. Imported by `migrate.live` on both sides.

The link is a veth pair, and it is the end on the host that is switched, so that the
container's own end keeps its addresses, routes and carrier.

Where that end is a port of a bridge it is taken off the bridge and put back: the
frames stop within half a millisecond either way, and inside nothing happens at all.
Setting it down instead would take the carrier away: the kernel forgets its
neighbours, and a first ARP request that is sent before the bridge forwards again is
repeated after a second (measured: 0.6 ms against 1.4 s until the first packet). Off
the bridge, its frames would reach the host's own IP: `QUARANTINE` keeps that out.

Where there is no bridge, the end is set down and up, and what it had is given back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from migrate.checkpoint import netns
from migrate.errors import NetworkError
from migrate.live.network import announce, links, sysctls
from migrate.live.network import rtnetlink as rt
from migrate.live.network.describe import route_socket
from migrate.live.network.links import FoundLink
from migrate.live.network.macvlan import MacvlanSwitch
from migrate.live.network.plan import HostEnd, Interface, Plan
from migrate.live.network.rtnetlink import RouteSocket

# On a port of a bridge none of these has an effect: the bridge takes every frame.
# Off it they refuse what comes from the container: addresses that belong elsewhere,
# questions who has this host's, packets to be forwarded, all of IPv6.
QUARANTINE: Mapping[str, str] = {
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/arp_ignore": "8",
    "ipv4/conf/{}/forwarding": "0",
    "ipv6/conf/{}/disable_ipv6": "1",
}


def quarantine_settings(name: str) -> dict[str, str]:
    """Return QUARANTINE for an interface, as far as this kernel has the settings."""
    wanted = {key.format(name): value for key, value in QUARANTINE.items()}
    return {key: wanted[key] for key in sysctls.read(wanted)}


class LinkSwitch:
    """One veth of a container, ready to be switched.

    Args:
        interface: as planned, its host end as it is on this host.
        sock: of this host's namespace; stays the caller's.
        index: of the host end.
        bridge: index of the bridge, 0 where there is none.
        packets: AF_PACKET socket on the container's end; taken over.
        is_ours: the host end was made by `build`, not by this host's owner.
    """

    def __init__(
        self,
        interface: Interface,
        sock: RouteSocket,
        index: int,
        bridge: int,
        packets: socket.socket,
        *,
        is_ours: bool,
    ) -> None:
        self.interface = interface
        self._sock = sock
        self._index = index
        self._bridge = bridge
        self._packets = packets
        self._is_ours = is_ours
        self._frames = announce.frames(interface)
        wanted = quarantine_settings(interface.host.name)
        self._before = sysctls.read(wanted) if bridge and not is_ours else {}
        self._by_bridge = bool(bridge) and not sysctls.write(wanted)
        self._settings = _settings(interface.host) if bridge else b""

    def down(self) -> None:
        """Cut the container off; may be called again.

        Raises:
            NetworkError: the host end is gone.
        """
        if self._by_bridge:
            self._sock.set_link(self._index, [rt.attribute(rt.IFLA_MASTER, 0)], self._about())
        else:
            self._sock.set_up(self._index, up=False)

    def up(self) -> None:
        """Join the container to the network and announce it; may be called again.

        Raises:
            NetworkError: the host end or its bridge is gone.
        """
        if self._by_bridge:
            master = rt.attribute(rt.IFLA_MASTER, self._bridge)
            self._sock.set_link(self._index, [master], self._about())
            if self._settings:
                self._sock.set_link(self._index, [self._settings], self._about())
        else:
            self._sock.set_up(self._index, up=True)
            self._give_back()
        self.announce()
        # Only a link of this host's owner has another state to go back to.
        sysctls.write(self._before)

    def _about(self) -> str:
        return f"link {self.interface.host.name}"

    def _give_back(self) -> None:
        """Restore what a link that goes down loses."""
        end = self.interface.host
        for address in end.addresses:
            links.add_address(self._sock, self._index, address)
        links.add_routes(self._sock, end.routes, {end.name: self._index})

    def announce(self) -> None:
        """Tell the network where the addresses are. Costs nothing to repeat."""
        announce.send(self._packets, self._frames)

    def close(self) -> None:
        """Let go of the sockets; the link stays as it is."""
        self._packets.close()


def _settings(end: HostEnd) -> bytes:
    """Return the port's settings as one attribute, for a request of their own."""
    if not end.port:
        return b""
    values = [rt.attribute(int(kind), bytes([value])) for kind, value in end.port.items()]
    return rt.nested(
        rt.IFLA_LINKINFO,
        rt.attribute(rt.IFLA_INFO_SLAVE_KIND, b"bridge"),
        rt.nested(rt.IFLA_INFO_SLAVE_DATA, *values),
    )


class Switches:
    """All links of a container, switched together.

    Args:
        plan: whose host ends are on this host.
        namespace_fd: the container's network namespace; stays the caller's.
        is_ours: they were made by `build`.

    Raises:
        NetworkError: a link or a bridge is not there.
    """

    def __init__(self, plan: Plan, namespace_fd: int | None, *, is_ours: bool) -> None:
        self._sock = route_socket()
        self._routes = plan.routes
        self.links: list[LinkSwitch | MacvlanSwitch] = []
        try:
            found = {link.name: link for link in links.links(self._sock)}
            for interface in plan.interfaces:
                self._add(interface, found, namespace_fd, is_ours=is_ours)
        except BaseException:
            self.close()
            raise

    def _add(
        self,
        interface: Interface,
        found: dict[str, FoundLink],
        namespace_fd: int | None,
        *,
        is_ours: bool,
    ) -> None:
        if interface.macvlan_mode and namespace_fd is not None:
            packets = netns.inside(namespace_fd, lambda: _packet_socket(interface.name))
            routes = [each for each in self._routes if each.interface == interface.name]
            self.links.append(
                MacvlanSwitch(interface, routes, namespace_fd, packets, is_ours=is_ours)
            )
            return
        end = find_host_end(interface.host, found)
        if end is None or namespace_fd is None:
            raise NetworkError(f"link {interface.host.name} is not there any more")
        bridge = find_bridge(interface.host.bridge, found)
        packets = netns.inside(namespace_fd, lambda: _packet_socket(interface.name))
        self.links.append(
            LinkSwitch(interface, self._sock, end.index, bridge, packets, is_ours=is_ours)
        )

    def down(self) -> None:
        """Cut the container off."""
        for link in self.links:
            link.down()

    def up(self) -> None:
        """Join the container to the network and announce it."""
        for link in self.links:
            link.up()

    def announce(self) -> None:
        """Announce the container's addresses again."""
        for link in self.links:
            link.announce()

    def close(self) -> None:
        """Let go of all sockets; the links stay as they are."""
        for link in self.links:
            link.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def switches_of(plan: Plan, pid: int, *, is_ours: bool = False) -> Switches:
    """Return the switches of a running (or frozen) container, also for `recover`.

    Args:
        plan: of `describe` on the source, of `Built.plan` on the destination.
        pid: of the container's first process.
        is_ours: the links were made by `build`.

    Raises:
        NetworkError: the process or a link is not there any more.
    """
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkError(f"process {pid}: {(error.strerror or '').lower()}") from error
    try:
        return Switches(plan, namespace, is_ours=is_ours)
    finally:
        os.close(namespace)


def find_host_end(end: HostEnd, found: Mapping[str, FoundLink]) -> FoundLink | None:
    """Return the host end among this host's links: by name, hardware address and kind."""
    link = found.get(end.name)
    return link if link and link.kind == "veth" and link.mac == end.mac else None


def find_bridge(name: str, found: Mapping[str, FoundLink]) -> int:
    """Return the index of a bridge, or 0 for no name.

    Raises:
        NetworkError: there is no bridge of that name.
    """
    if not name:
        return 0
    link = found.get(name)
    if link is None or link.kind != "bridge":
        raise NetworkError(
            f"bridge {name} does not exist on this host",
            f"Make it there, or name another one by --bridge {name}=NAME.",
        )
    return link.index


def _packet_socket(interface: str) -> socket.socket:
    """Return a socket that sends frames, and receives none, on an interface."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        sock.bind((interface, 0))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise NetworkError(f"interface {interface}: {(error.strerror or '').lower()}") from error
    return sock
