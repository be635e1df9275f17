"""What the destination has at the places of a container's volumes and layers.

Lives here: looking, as the source asks for it. Must not live here: what follows from it
(`decide`). `live.volumes` and `live.destination` only. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from migrate import syscalls
from migrate.checkpoint.inspect import binds
from migrate.errors import MigrateError, ProtocolError
from migrate.live.volumes.alike import read_marker, tree_digest
from migrate.live.volumes.find import is_within, kind_of
from migrate.live.volumes.stowage import is_left
from migrate.live.volumes.volume import ABSENT, FILE, FOLDER, Seen
from migrate.live.wire import Fields
from migrate.runtime.spec.decoding import decode
from migrate.runtime.state import Store

# File systems that no upper layer of an overlay may lie on: overlay itself, NFS, SMB, FAT.
_NO_UPPER = frozenset({0x794C7630, 0x6969, 0xFF534D42, 0xFE534D42, 0x4D44, 0x65735546})


def look(value: object, store: Store) -> dict[str, Any]:
    """Answer the source's question `volumes`.

    Raises:
        ProtocolError: it is none.
    """
    asked = Fields("volumes", value)
    bundle, container_id = asked.text("bundle"), asked.text("container")
    rows = [Fields("volumes", each) for each in _list(asked, "volumes")]
    users = _users(store, container_id) if rows else {}
    return {
        "volumes": [
            _seen(
                row.text("path"),
                row.text("marker"),
                users,
                is_left=is_left(row.text("path"), bundle, container_id),
            ).to_json()
            for row in rows
        ],
        "layers": [os.path.isdir(_path(each)) for each in _list(asked, "layers")],
        "programs": [os.access(_path(each), os.X_OK) for each in _list(asked, "programs")],
        "takes_layers": _takes_layers(bundle),
    }


def digests(value: object) -> list[str]:
    """Answer the source's question `digests`: "" for what cannot be read.

    Raises:
        ProtocolError: it is none.
    """
    found = []
    for each in _list(Fields("digests", value), "trees"):
        row = Fields("digests", each)
        path, kind = _path(row.text("path")), row.text("kind")
        try:
            found.append(tree_digest(path, is_file=kind == FILE, layer=kind == "layer"))
        except (OSError, MigrateError):
            found.append("")
    return found


def _list(fields: Fields, name: str) -> list[Any]:
    value = fields.value.get(name)
    if not isinstance(value, list):
        raise ProtocolError(f"{fields.method}: {name} is no list")
    return value


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ProtocolError(f"volumes: {value!r} is no path from the root")
    return value


def _seen(path: str, marker: str, users: dict[str, str], *, is_left: bool) -> Seen:
    kind, device = kind_of(_path(path))
    seen = Seen(kind=kind, device=device, is_left=is_left)
    near = nearest(path)
    room = os.statvfs(near)
    seen.free_bytes, seen.disk = room.f_bavail * room.f_frsize, str(os.stat(near).st_dev)
    if kind == ABSENT and os.path.lexists(path):
        seen.kind = "other"  # a link to nowhere
    elif kind == FOLDER:
        with os.scandir(path) as entries:
            seen.is_empty = next(entries, None) is None
    elif kind == FILE:
        seen.is_empty = os.path.getsize(path) == 0
    if marker and kind in (FOLDER, FILE):
        folder = path if kind == FOLDER else os.path.dirname(os.path.realpath(path))
        seen.marker = read_marker(folder, marker)
    real = os.path.realpath(path)
    seen.user = next(
        (user for used, user in users.items() if is_within(used, real) or is_within(real, used)),
        "",
    )
    return seen


def nearest(path: str) -> str:
    """Return the lowest folder on the way to a path that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _users(store: Store, container_id: str) -> dict[str, str]:
    """Return what the containers here have mounted from this host, and which has it."""
    found: dict[str, str] = {}
    for other in store.ids():
        if other != container_id:
            with contextlib.suppress(MigrateError, OSError):
                bundle = store.load(other)["bundle"]
                spec: Any = decode(store.read(other, "config.json"), "config.json")
                for source in binds(spec, bundle).values():
                    found[os.path.realpath(source)] = other
    return found


def _takes_layers(bundle: str) -> bool:
    """Tell whether an overlay can be mounted in the bundle, its upper layer beside it."""
    if os.path.ismount(f"{bundle}/rootfs"):
        return False
    fd = os.open(nearest(bundle), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.fstatfs(fd) & 0xFFFFFFFF not in _NO_UPPER
    finally:
        os.close(fd)
