"""What the containers are, as data.

Lives here: the state of one container as `runc state` has it, and of all. Must not live
here: layout. May be imported by every room above `runtime`.
"""

from __future__ import annotations

import os

from migrate.errors import ContainerNotFound, StateError
from migrate.runtime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.state import Record, Store

UNKNOWN = "unknown"


def describe(record: Record, *, owner: str = "") -> dict[str, Any]:
    """Return a container's state: runtime.md, "State", and runc's additions, in its order."""
    status = state.status(record)
    description: dict[str, Any] = {
        "ociVersion": record["oci_version"],
        "id": record["id"],
        "pid": 0 if status == "stopped" else record["pid"],
        "status": status,
        "bundle": record["bundle"],
        "rootfs": record["rootfs"],
        "created": record["created"],
    }
    if record["annotations"]:
        description["annotations"] = dict(sorted(record["annotations"].items()))
    description["owner"] = owner
    return description


def describe_all(store: Store) -> list[dict[str, Any]]:
    """Return the state of every container; one that cannot be read is `unknown`.

    Whatever is in the state directory, this returns: a broken container is when the list
    is needed most.
    """
    found = []
    for container_id in store.ids():
        try:
            record = store.load(container_id)
            found.append(describe(record, owner=record["owner"]))
        except ContainerNotFound:
            # Without a record: it is being made, or removed; or was, by somebody killed.
            if not store.is_locked(container_id) and os.path.isdir(store.path(container_id)):
                found.append(_unknown(store, container_id))
        except StateError:
            found.append(_unknown(store, container_id))
    return found


def _unknown(store: Store, container_id: str) -> dict[str, Any]:
    """Return what can be said of a container whose record cannot be read."""
    return {
        "ociVersion": "",
        "id": container_id,
        "pid": 0,
        "status": UNKNOWN,
        "bundle": "",
        "rootfs": "",
        "created": "",
        "owner": _owner_of(store.path(container_id)),
    }


def _owner_of(path: str) -> str:
    """Return the name of a file's owner, or its number."""
    import pwd

    try:
        uid = os.stat(path).st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
