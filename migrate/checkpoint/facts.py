"""What a container is made of, as far as CRIU must be told, as plain data.

Lives here: the dataclasses and their JSON. Must not live here: how they are found
out (`inspect`), what follows from them (`options`). May be imported by `checkpoint`
and `live`: they travel to the destination before anything is frozen, and lie in the
manifest of every image directory.

Read back, they are input: `from_json` checks every type and refuses what it does not
know, because they may come from another host.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal

from migrate.errors import ImageError

SCHEMA_VERSION = 1


@dataclass(slots=True, frozen=True, kw_only=True)
class Mount:
    """One mount of the container's mount namespace that CRIU shall not make itself.

    Attributes:
        destination: path inside the container; also the cookie in the image.
        kind: cgroup (a control group tree), null (a masked file), masked (a masked
            directory), device (a node of the host's /dev, where none may be made: user
            namespaces), bind (something else of the host).
        controller: of a cgroup: the key of `runtime.cgroup`.
        source: of a bind: path on the host it came from.
    """

    destination: str
    kind: Literal["cgroup", "null", "masked", "device", "bind"]
    controller: str = ""
    source: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class Stdio:
    """What one descriptor of the container's outside world is.

    Attributes:
        descriptor: number in the first process; -1 where only others have it.
        kind: pipe (its other end is outside), file (of the host), terminal (of the host).
        key: what CRIU calls it in `inherit_fd`.
        path: of a file or terminal, where it is on the host.
        flags: as open(2) took them, without creation flags.
    """

    descriptor: int
    kind: Literal["pipe", "file", "terminal"]
    key: str
    path: str = ""
    flags: int = 0


@dataclass(slots=True, frozen=True, kw_only=True)
class Connection:
    """A TCP connection of the container.

    Attributes:
        local, remote: `address:port`, IPv6 in brackets.
        state: as ss(8) names it.
        is_loopback: both ends are in the container's own network namespace.
        process: who has it, `PID (command)` in the container's numbers.
    """

    local: str
    remote: str
    state: str
    is_loopback: bool
    process: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Obstacle:
    """Something that cannot follow, or follows only with a change.

    Attributes:
        verdict: refuse (CRIU would fail, or the container would break) or warn.
        what: the thing, the process and the file, one line.
        hint: the way out.
    """

    verdict: Literal["refuse", "warn"]
    what: str
    hint: str


@dataclass(slots=True, frozen=True, kw_only=True)
class NetworkNamespace:
    """The container's network namespace.

    Attributes:
        inode: as in /proc/PID/ns/net.
        kind: own (made for it), joined (by a path in config.json), host.
        path: where it was joined.
        only_loopback: no interface but lo; loopback_is_up: its state.
    """

    inode: int
    kind: Literal["own", "joined", "host"]
    path: str = ""
    only_loopback: bool = False
    loopback_is_up: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class CgroupPath:
    """Where the container is in one tree of control groups.

    Attributes:
        controller: key of `runtime.cgroup`.
        path: from the root of the tree, as CRIU sees it.
    """

    controller: str
    path: str


@dataclass(slots=True, frozen=True, kw_only=True)
class Process:
    """One process: numbers inside and outside, and how much memory is its own."""

    pid: int
    inner_pid: int
    command: str
    threads: int
    uid: int
    memory_bytes: int


@dataclass(slots=True, frozen=True, kw_only=True)
class Facts:
    """What a container is.

    Attributes:
        terminal: its first process has a terminal of its own (a pts in its own devpts).
        cgroup_namespace: it sees its control group as the root.
        has_nested_cgroups: processes live in groups below the container's own.
        host_unix_sockets: UNIX sockets connected to somebody outside.
        file_locks: held by its processes, in words.
        ghost_bytes: size of the largest file that is open and has no name left.
        has_remapped_links: a file is open under a removed name and has another one.
        memory_bytes: what a stop-copy has to carry, about.
    """

    schema_version: int = SCHEMA_VERSION
    container_id: str
    pid: int
    rootfs: str
    terminal: bool
    cgroup_namespace: bool
    has_nested_cgroups: bool
    user_namespace: bool
    network: NetworkNamespace
    cgroup: tuple[CgroupPath, ...] = ()
    mounts: tuple[Mount, ...] = ()
    stdio: tuple[Stdio, ...] = ()
    connections: tuple[Connection, ...] = ()
    host_unix_sockets: tuple[str, ...] = ()
    file_locks: tuple[str, ...] = ()
    ghost_bytes: int = 0
    has_remapped_links: bool = False
    processes: tuple[Process, ...] = ()
    memory_bytes: int = 0
    obstacles: tuple[Obstacle, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: object) -> Facts:
        """Return facts that were written by `to_json`, every type checked.

        Raises:
            ImageError: names the first value that is missing, unknown or wrong.
        """
        facts = _decode(Facts, data, "facts")
        if not isinstance(facts, Facts) or facts.schema_version != SCHEMA_VERSION:
            raise ImageError(
                "facts are of a schema this version does not know",
                "Use the same version of migrate for dump and restore.",
            )
        return facts


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    return typing.get_type_hints(kind)


def _decode(kind: Any, data: Any, where: str) -> Any:
    """Return JSON data as the annotated type, or raise where it does not fit."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(data, dict):
            raise ImageError(f"{where} is not an object")
        hints = _hints(kind)
        unknown = data.keys() - hints.keys()
        if unknown:
            raise ImageError(f"{where}.{min(unknown)} is unknown")
        values = {key: _decode(hints[key], data[key], f"{where}.{key}") for key in data}
        try:
            return kind(**values)
        except TypeError as error:
            raise ImageError(f"{where} is incomplete: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ImageError(f"{where} is not a list")
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is Literal:
        if data not in arguments:
            raise ImageError(f"{where} is {data!r}, not one of {', '.join(map(repr, arguments))}")
        return data
    if origin is UnionType:
        if data is None and NoneType in arguments:
            return None
        return _decode(arguments[0], data, where)
    # A bool is an int to isinstance, and a number where a claim is expected is damage.
    if type(data) is not kind:
        raise ImageError(f"{where} is not of type {kind.__name__}")
    return data
