"""Network devices of the host's that a container gets.

Lives here: moving them into the container's network namespace with name and addresses,
and back where the container could not be made. Must not live here: what may be asked
for (`spec.belongings`); links that this program makes itself (`migrate.live.network`).
Imported by `launch` where `linux.netDevices` names some. See rtnetlink(7).

Once a container has run they are not moved back by its runtime, as config-linux.md
("Namespace Lifecycle") has it: with the namespace the kernel gives physical devices back
to the host, and removes virtual ones.
"""

from __future__ import annotations

import _socket
import os
import sys

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from migrate.runtime.spec.model import NetDevice

    Attributes = dict[int, bytes]

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLM_F_EXCL_CREATE = 0x600
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_PERMANENT = 0x80
_RT_SCOPE_UNIVERSE = 0
_IFF_UP = 1
_HEADER_BYTES, _LINK_BYTES, _ADDRESS_BYTES = 16, 16, 8
_ORDER = sys.byteorder


class _Routes:
    """A routing socket of one network namespace, with the namespace's descriptor."""

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, 0)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()
        os.close(self.namespace)

    def ask(self, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
        """Send a message, and give the bodies of what answers.

        Raises:
            OSError: the kernel refuses it.
        """
        self._sequence += 1
        size = _HEADER_BYTES + len(body)
        header = _pack((size, 4), (kind, 2), (_NLM_F_REQUEST | flags, 2), (self._sequence, 4))
        self._socket.send(header + bytes(4) + body)
        while True:
            data = self._socket.recv(1 << 18)
            while data:
                size, found = _number(data[:4]), _number(data[4:6])
                part, data = data[_HEADER_BYTES:size], data[size + 3 & ~3 :]
                if found == _NLMSG_ERROR:
                    code = int.from_bytes(part[:4], _ORDER, signed=True)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                if found == _NLMSG_DONE:
                    return
                yield part

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Ask for a change, see `ask`."""
        for _ in self.ask(kind, body, _NLM_F_ACK | flags):
            pass

    def links(self) -> dict[str, tuple[int, bool]]:
        """Index of every device by its name, and whether it is up."""
        found = {}
        for part in self.ask(_RTM_GETLINK, bytes(_LINK_BYTES), _NLM_F_DUMP):
            name = _attributes(part[_LINK_BYTES:])[_IFLA_IFNAME].rstrip(b"\0")
            found[os.fsdecode(name)] = _number(part[4:8]), bool(_number(part[8:12]) & _IFF_UP)
        return found

    def addresses(self, index: int) -> list[tuple[bytes, Attributes]]:
        """Permanent addresses of global scope that a device has: body and attributes."""
        found = []
        for part in self.ask(_RTM_GETADDR, bytes(_ADDRESS_BYTES), _NLM_F_DUMP):
            head, more = part[:_ADDRESS_BYTES], _attributes(part[_ADDRESS_BYTES:])
            flags = _number(more.get(_IFA_FLAGS, head[2:3]))
            is_lasting = flags & _IFA_F_PERMANENT and head[3] == _RT_SCOPE_UNIVERSE
            if is_lasting and _number(head[4:8]) == index:
                found.append((head, more))
        return found


def _pack(*numbers: tuple[int, int]) -> bytes:
    return b"".join(value.to_bytes(size, _ORDER) for value, size in numbers)


def _number(data: bytes) -> int:
    return int.from_bytes(data, _ORDER)


def _attribute(kind: int, value: bytes) -> bytes:
    return _pack((4 + len(value), 2), (kind, 2)) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Attributes:
    found: Attributes = {}
    while len(data) >= 4 and (size := _number(data[:2])) >= 4:
        found[_number(data[2:4]) & 0x3FFF] = data[4:size]
        data = data[size + 3 & ~3 :]
    return found


def _link_body(index: int, state: int = 0, changed: int = 0) -> bytes:
    return bytes(4) + _pack((index, 4), (state, 4), (changed, 4))


class Moved:
    """The devices a container got, until it is sure that it keeps them.

    Attributes:
        names: inside to outside, in the order they were moved.
    """

    def __init__(self, devices: dict[str, NetDevice], pid: int) -> None:
        """Move devices into the network namespace of a process.

        Raises:
            StageError: one of them is not there, or cannot be moved; all are back.
        """
        self.names: dict[str, str] = {}
        self._here = _Routes(_namespace("self"))
        try:
            self._there = _routes_of(pid)
        except BaseException:
            self._here.close()
            raise
        try:
            for name, device in devices.items():
                inside = _move(self._here, self._there, name, device.get("name") or name)
                self.names[inside] = name
        except BaseException:
            self.give_back()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Leave them where they are, or where the block has failed give them back."""
        if kind is not None:
            self.give_back()
        else:
            self.close()

    def close(self) -> None:
        """Leave them where they are."""
        self._here.close()
        self._there.close()

    def give_back(self) -> None:
        """Move them to where they came from, under their names, as well as can be."""
        for inside, outside in reversed(self.names.items()):
            try:
                _move(self._there, self._here, inside, outside)
            except StageError:  # why the container could not be made is what counts
                continue
        self.close()


def _namespace(pid: int | str) -> int:
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _routes_of(pid: int) -> _Routes:
    """A routing socket made in the network namespace of a process: it stays in there."""
    own, other = _namespace("self"), _namespace(pid)
    try:
        syscalls.setns(other, syscalls.CLONE_NEWNET)
        try:
            return _Routes(other)
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
    except KernelError as error:
        os.close(other)
        reason = os.strerror(error.errno).lower()
        raise StageError(f"$.linux.netDevices: cannot enter the namespace: {reason}") from None
    finally:
        os.close(own)


def _move(source: _Routes, target: _Routes, name: str, wanted: str) -> str:
    """Move one device between namespaces, and return its new name.

    Order: down first, as renaming asks for, and so that nothing is sent meanwhile; the
    move takes its addresses off, which come back before it is up. A name that is taken
    is looked for before, since the kernel renames only after the move.
    """
    where = f"$.linux.netDevices[{name}]"
    try:
        links, others = source.links(), target.links()
        if name not in links:
            raise StageError(f"{where}: there is no network device {name}", "See `ip link`.")
        if wanted in others:
            raise StageError(
                f"{where}: {wanted} exists in the container's namespace",
                "Give it another name, or one with %d for a free number.",
            )
        index, _ = links[name]
        addresses = source.addresses(index)
        source.change(_RTM_NEWLINK, _link_body(index, 0, _IFF_UP))
        source.change(
            _RTM_NEWLINK,
            _link_body(index)
            + _attribute(_IFLA_IFNAME, os.fsencode(wanted) + b"\0")
            + _attribute(_IFLA_NET_NS_FD, _pack((target.namespace, 4))),
        )
        inside = next(each for each in target.links() if each not in others)
        index, _ = target.links()[inside]
        for head, more in addresses:
            kept = (_IFA_LOCAL, _IFA_ADDRESS, _IFA_BROADCAST, _IFA_FLAGS)
            body = head[:4] + _pack((index, 4))
            body += b"".join(_attribute(kind, more[kind]) for kind in kept if kind in more)
            target.change(_RTM_NEWADDR, body, _NLM_F_EXCL_CREATE)
        target.change(_RTM_NEWLINK, _link_body(index, _IFF_UP, _IFF_UP))
    except OSError as error:
        reason = str(error.strerror).lower()
        raise StageError(f"{where}: cannot move it: {reason}") from None
    return inside
