"""Reading /proc of the container's processes.

Lives here: one function a file, text to data, see proc(5). Must not live here: what
the data means for CRIU (`inspect`). May be imported by `checkpoint` only.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")
_TCP_STATES = {
    1: "ESTAB",
    2: "SYN-SENT",
    3: "SYN-RECV",
    4: "FIN-WAIT-1",
    5: "FIN-WAIT-2",
    6: "TIME-WAIT",
    7: "UNCONN",
    8: "CLOSE-WAIT",
    9: "LAST-ACK",
    10: "LISTEN",
    11: "CLOSING",
}


@dataclass(slots=True, frozen=True)
class MountLine:
    """One line of mountinfo."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    point: str
    options: frozenset[str]
    fstype: str
    source: str
    super_options: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class OpenFile:
    """One descriptor of a process.

    Attributes:
        link: what /proc/PID/fd/N reads as.
        mount_id: -1 where the kernel tells none.
    """

    number: int
    link: str
    flags: int
    mount_id: int
    stat: os.stat_result


@dataclass(slots=True, frozen=True)
class InetSocket:
    """One line of /proc/PID/net/tcp or tcp6."""

    local: str
    remote: str
    state: str
    inode: int
    is_loopback: bool


def read(path: str) -> str:
    """Return a file of /proc as text.

    Raises:
        FileNotFoundError, ProcessLookupError: its process has ended.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A zombie has no mounts, files or memory any more.
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), path) from None


def mounts(pid: int | str) -> list[MountLine]:
    """Return the mount namespace of a process, in mount order."""
    found = []
    for line in read(f"/proc/{pid}/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        found.append(
            MountLine(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                device=fields[2],
                root=_unescaped(fields[3]),
                point=_unescaped(fields[4]),
                options=frozenset(fields[5].split(",")),
                fstype=rest[0],
                source=_unescaped(rest[1]),
                super_options=tuple(rest[2].split(",")) if len(rest) > 2 else (),
            )
        )
    return found


def open_files(pid: int) -> Iterator[OpenFile]:
    """Yield the descriptors of a process; those closed meanwhile are left out."""
    directory = f"/proc/{pid}/fd"
    for name in sorted(os.listdir(directory), key=int):
        try:
            link = os.readlink(f"{directory}/{name}")
            stat = os.stat(f"{directory}/{name}")
            info = read(f"/proc/{pid}/fdinfo/{name}")
        except FileNotFoundError:
            continue
        flags, mount_id = 0, -1
        for line in info.splitlines():
            key, _, value = line.partition(":")
            if key == "flags":
                flags = int(value, 8)
            elif key == "mnt_id":
                mount_id = int(value)
                break
        yield OpenFile(int(name), link, flags, mount_id, stat)


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status by field name."""
    pairs = (line.partition(":") for line in read(f"/proc/{pid}/status").splitlines())
    return {key: value.strip() for key, _, value in pairs}


def mapped_names(pid: int) -> set[str]:
    """Return the names of what a process has mapped."""
    names = set()
    for line in read(f"/proc/{pid}/maps").splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6:
            names.add(fields[5])
    return names


def children(pid: int) -> list[int]:
    """Return a process's children, of all its threads."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            found += map(int, read(f"/proc/{pid}/task/{thread}/children").split())
        except FileNotFoundError:
            continue
    return found


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it, parents first."""
    found = [pid]
    for parent in found:
        try:
            found += children(parent)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(first_pid: int) -> dict[int, int]:
    """Return the pids here of a container's processes, by their number inside.

    Those of a pid namespace below the container's have a number for that one, too.
    """
    level = len(numbers(first_pid)) - 1
    found: dict[int, int] = {}
    for pid in tree(first_pid):
        own = numbers(pid)
        if len(own) > level >= 0:
            found[own[level]] = pid
    return found


def numbers(pid: int) -> list[int]:
    """Return a process's number in each pid namespace it is in, from the outermost.

    None where it has ended.
    """
    try:
        return [int(number) for number in status(pid).get("NSpid", "").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def tcp_sockets(pid: int) -> Iterator[InetSocket]:
    """Yield the TCP sockets of a process's network namespace."""
    for name in ("tcp", "tcp6"):
        try:
            lines = read(f"/proc/{pid}/net/{name}").splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            local, remote = fields[1], fields[2]
            local_address, remote_address = (_address(text) for text in (local, remote))
            yield InetSocket(
                local=_endpoint(local),
                remote=_endpoint(remote),
                state=_TCP_STATES.get(int(fields[3], 16), fields[3]),
                inode=int(fields[9]),
                is_loopback=local_address == remote_address or _is_loopback(remote_address),
            )


def locks() -> Iterator[tuple[int, str, str]]:
    """Yield (pid, kind, device:inode) of each file lock that is held on this host."""
    for line in read("/proc/locks").splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] != "->":
            yield int(fields[4]), fields[1], fields[5]


def _unescaped(text: str) -> str:
    """Return a mountinfo field without its octal escapes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def _address(text: str) -> bytes:
    """Return the address of `HEX:PORT` in network order; each 32-bit word is turned."""
    raw = bytes.fromhex(text.partition(":")[0])
    address = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    # An IPv4 address on an IPv6 socket.
    return address[12:] if address[:12] == b"\0" * 10 + b"\xff\xff" else address


def _is_loopback(address: bytes) -> bool:
    """Tell whether an address never leaves the network namespace."""
    return address[0] == 127 if len(address) == 4 else address == b"\0" * 15 + b"\1"


def _endpoint(text: str) -> str:
    """Return `HEX:PORT` as people write it."""
    import socket

    address = _address(text)
    port = int(text.partition(":")[2], 16)
    if len(address) == 4:
        return f"{socket.inet_ntoa(address)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"
