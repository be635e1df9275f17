"""The container's network on the destination, made while the container still runs.

Lives here: making it, and taking it away again, also by a later process from a
journal. Must not live here: switching it on (`switch.py`). Imported by
`migrate.live`.

Everything is up and has its carrier beforehand; only the host end is not on its
bridge yet, so that nothing gets in or out. What will be made is recorded before it
is made: `tear_down` needs nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from migrate import syscalls
from migrate.checkpoint import netns
from migrate.errors import KernelError, NetworkError
from migrate.live.network import links, macvlan, sysctls
from migrate.live.network import rtnetlink as rt
from migrate.live.network.describe import FALLBACKS, route_socket
from migrate.live.network.links import FoundLink
from migrate.live.network.plan import Interface, Plan
from migrate.live.network.rtnetlink import RefusedByKernel, RouteSocket
from migrate.live.network.switch import (
    Switches,
    find_bridge,
    find_host_end,
    quarantine_settings,
)

Record = Callable[[dict[str, Any]], None]
"""Takes note, durably, of what is about to be made."""

_MODE_NONE = 1  # IN6_ADDR_GEN_MODE_NONE
_CARRIER_SECONDS = 2.0
_NAMESPACE_FOLDERS = ("/run/", "/var/run/")


class Built:
    """The network of a container that is about to arrive.

    Attributes:
        descriptor: its network namespace, or None for the host's.
        plan: the source's, its host ends as they are here.
        switches: off until `switches.up()`.
        facts: JSON-able, all that `tear_down` needs.
        left_out: settings that this kernel does not take.
    """

    def __init__(
        self, descriptor: int | None, plan: Plan, facts: dict[str, Any], left_out: list[str]
    ) -> None:
        self.descriptor = descriptor
        self.plan = plan
        self.facts = facts
        self.left_out = left_out
        self.switches = Switches(plan, descriptor, is_ours=True)

    def close(self) -> None:
        """Let go of it; a namespace that nobody else holds ends, its links with it."""
        self.switches.close()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def build(plan: Plan, record: Record) -> Built:
    """Make a container's network on this host, cut off from everything.

    Args:
        plan: the source's.
        record: called once, before anything is made, with what `tear_down` takes.

    Raises:
        NetworkError: a bridge is missing, the namespace's path is taken, or the
            kernel refuses; nothing is left then.
    """
    if plan.kind == "host":
        facts = {"plan": plan.to_json(), "path_made": False}
        record(facts)
        return Built(None, plan, facts, [])
    sock = route_socket()
    try:
        here = _place(plan, {link.name: link for link in links.links(sock)})
        exists = _check_path(plan.path)
        facts = {"plan": here.to_json(), "path_made": bool(plan.path) and not exists}
        record(facts)
        namespace = -1
        try:
            namespace = _existing(plan.path) if exists else _fresh(here)
            left_out = _fill(here, sock, namespace)
            return Built(namespace, here, facts, left_out)
        except (OSError, NetworkError, KernelError) as error:
            if namespace >= 0:
                os.close(namespace)
            if isinstance(error, FileExistsError):  # somebody else was faster: it is theirs
                facts["path_made"] = False
            tear_down(facts)
            if isinstance(error, NetworkError):
                raise
            raise NetworkError(f"network of the container: {error}") from error
    finally:
        sock.close()


# --- names ---


def _place(plan: Plan, found: Mapping[str, FoundLink]) -> Plan:
    """Return the plan with host ends that this host can have."""
    taken = set(found)
    interfaces = []
    for interface in plan.interfaces:
        end = interface.host
        if interface.macvlan_mode:
            macvlan.find_parent(interface, found)
            interfaces.append(interface)
            continue
        find_bridge(end.bridge, found)
        name = end.name
        while name in taken:
            name = f"veth{os.urandom(4).hex()}"
        taken.add(name)
        # A bridge takes the lowest hardware address of its ports for its own, and would
        # change it under the host: fe: is the highest. Without a bridge the container
        # knows the address as its gateway's, and it must stay.
        mac = f"fe:{os.urandom(5).hex(':')}" if end.bridge else end.mac
        routes = [replace(route, interface=name) for route in end.routes]
        host = replace(end, name=name, mac=mac, routes=routes)
        interfaces.append(replace(interface, host=host))
    return replace(plan, interfaces=interfaces)


# --- the namespace ---


def _check_path(path: str) -> bool:
    """Whether something is at a joined namespace's path already.

    Raises:
        NetworkError: no namespace belongs there. The path is the peer's wish.
    """
    if path and not path.startswith(_NAMESPACE_FOLDERS):
        raise NetworkError(
            f"network namespace {path} is outside {' and '.join(_NAMESPACE_FOLDERS)}",
            "Use a namespace that ip-netns(8) can have made.",
        )
    return bool(path) and os.path.lexists(path)


def refuse_taken(path: str) -> None:
    """Refuse a joined namespace's path that cannot be had; touches nothing.

    Raises:
        NetworkError: it is in use, or no place for a namespace.
        OSError: it cannot be looked at.
    """
    if _check_path(path):
        os.close(_existing(path))


def _fresh(plan: Plan) -> int:
    namespace = netns.fresh(loopback_is_up=plan.loopback_is_up)
    try:
        if plan.path:
            _mount_at(namespace, plan.path)
    except BaseException:
        os.close(namespace)
        raise
    return namespace


def _mount_at(namespace: int, path: str) -> None:
    """Give a namespace a name, as ip-netns(8) does."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o444))
    syscalls.mount(f"/proc/self/fd/{namespace}", path, None, syscalls.MS_BIND)


def _existing(path: str) -> int:
    """Open the namespace that is at a path, if nobody uses it.

    Raises:
        NetworkError: it is no network namespace, or has links already.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        others = (
            sorted(netns.inside(fd, netns.interfaces).keys() - {"lo", *FALLBACKS})
            if _is_network_namespace(fd)
            else ["what is no network namespace"]
        )
    except BaseException:
        os.close(fd)
        raise
    if others:
        os.close(fd)
        raise NetworkError(
            f"network namespace {path} on the destination is in use: it has {', '.join(others)}",
            f"Remove it there: ip netns delete {os.path.basename(path)}.",
        )
    return fd


def _is_network_namespace(fd: int) -> bool:
    if syscalls.fstatfs(fd) != syscalls.NSFS_MAGIC:
        return False
    return fcntl.ioctl(fd, syscalls.NS_GET_NSTYPE) == syscalls.CLONE_NEWNET


# --- what is in it ---


def _fill(plan: Plan, sock: RouteSocket, namespace: int) -> list[str]:
    """Make the links, both ends at once in their namespaces; returns settings left out."""
    before = {link.name: link for link in links.links(sock)}
    for interface in plan.interfaces:
        if interface.macvlan_mode:
            macvlan.make(sock, interface, macvlan.find_parent(interface, before), namespace)
        else:
            _make_pair(sock, interface, namespace)
    left_out: list[str] = netns.inside(namespace, lambda: _fill_inside(plan))
    found = {link.name: link for link in links.links(sock)}
    for interface in plan.interfaces:
        end = interface.host
        # Without a bridge the switch sets it up: until then it must be down.
        if end.bridge and not sysctls.write(quarantine_settings(end.name)):
            sock.set_up(found[end.name].index, up=True)
    _wait_for_carrier(plan, sock)
    return left_out


def _make_pair(sock: RouteSocket, interface: Interface, namespace: int) -> None:
    end = interface.host
    inside = rt.link_body() + b"".join(
        [
            rt.attribute(rt.IFLA_IFNAME, interface.name),
            rt.attribute(rt.IFLA_ADDRESS, bytes.fromhex(interface.mac.replace(":", ""))),
            rt.attribute(rt.IFLA_MTU, interface.mtu),
            rt.attribute(rt.IFLA_TXQLEN, interface.queue),
            rt.attribute(rt.IFLA_NET_NS_FD, namespace),
        ]
    )
    body = rt.link_body() + b"".join(
        [
            rt.attribute(rt.IFLA_IFNAME, end.name),
            rt.attribute(rt.IFLA_ADDRESS, bytes.fromhex(end.mac.replace(":", ""))),
            rt.attribute(rt.IFLA_MTU, end.mtu),
            rt.nested(
                rt.IFLA_LINKINFO,
                rt.attribute(rt.IFLA_INFO_KIND, b"veth"),
                rt.nested(rt.IFLA_INFO_DATA, rt.attribute(rt.VETH_INFO_PEER, inside)),
            ),
        ]
    )
    flags = rt.NLM_F_CREATE | rt.NLM_F_EXCL
    sock.request(rt.RTM_NEWLINK, body, flags=flags, about=f"veth {end.name}")


def _fill_inside(plan: Plan) -> list[str]:
    """Set up the container's ends: settings, addresses, state, routes."""
    left_out = sysctls.write(plan.sysctls)
    sock = route_socket()
    try:
        indices = {link.name: link.index for link in links.links(sock)}
        for interface in plan.interfaces:
            index = indices[interface.name]
            about = f"interface {interface.name}"
            if interface.address_mode >= 0:
                # Its link-local address comes along, too: a made one would be checked
                # for duplicates for a second.
                sock.set_link(index, [_address_mode(_MODE_NONE)], about)
            for address in interface.addresses:
                links.add_address(sock, index, address)
            if interface.is_up:
                sock.set_up(index, up=True)
            if interface.address_mode >= 0:
                sock.set_link(index, [_address_mode(interface.address_mode)], about)
        links.add_routes(sock, plan.routes, indices)
    finally:
        sock.close()
    return left_out


def _address_mode(mode: int) -> bytes:
    value = rt.attribute(rt.IFLA_INET6_ADDR_GEN_MODE, bytes([mode]))
    return rt.nested(rt.IFLA_AF_SPEC, rt.nested(links.AF_INET6, value))


def _wait_for_carrier(plan: Plan, sock: RouteSocket) -> None:
    """Wait until the kernel has noticed that both ends are up.

    A port that is not operational yet would not forward when it joins its bridge.
    """
    waiting = {each.host.name for each in plan.interfaces if each.is_up and each.host.bridge}
    deadline = time.monotonic() + _CARRIER_SECONDS
    while waiting and time.monotonic() < deadline:
        waiting -= {link.name for link in links.links(sock) if link.is_operational}
        time.sleep(0.002)


# --- the way back ---


def tear_down(facts: Mapping[str, Any]) -> None:
    """Remove what `build` made, or began to make; may be called again.

    Args:
        facts: what `record` was given, also from another process's journal.

    Raises:
        NetworkError: the kernel does not let it go.
    """
    plan = Plan.from_json(facts["plan"])
    remove_links(plan)
    if facts.get("path_made") and plan.path and not _is_used(plan.path):
        _unmount(plan.path)


def remove_links(plan: Plan) -> None:
    """Remove a plan's links from this host: on the source, when the container has gone.

    A namespace that config.json joins by path stays; it is whoever made it's.
    """
    macvlan.remove(plan.interfaces, plan.path)
    sock = route_socket()
    try:
        found = {link.name: link for link in links.links(sock)}
        for interface in plan.interfaces:
            link = None if interface.macvlan_mode else find_host_end(interface.host, found)
            if link is None:
                continue
            try:
                sock.delete_link(link.index, f"link {link.name}")
            except RefusedByKernel as error:
                if error.errno != errno.ENODEV:
                    raise
    finally:
        sock.close()


def _is_used(path: str) -> bool:
    """Whether a namespace has links after ours have gone: then somebody else made it.

    `build` may have been cut off before it came to make its own at that path.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not _is_network_namespace(fd):
            return False
        return bool(netns.inside(fd, netns.interfaces).keys() - {"lo", *FALLBACKS})
    finally:
        os.close(fd)


def _unmount(path: str) -> None:
    try:
        syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except KernelError as error:
        if error.errno not in {errno.EINVAL, errno.ENOENT}:
            raise NetworkError(error.message) from error
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise NetworkError(f"{path}: {(error.strerror or '').lower()}") from error
