"""Marks that say: a migration is at work here, or was.

Lives here: the guard file in a container's state folder, and the mark in a bundle
that a migration has left. `live` only; `runtime.state` knows the guard's name and
refuses the commands that would come between.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

from migrate.errors import ContainerNotFound
from migrate.live.reality import remove_quietly
from migrate.runtime.state import Store

GUARD = "migration"
MARK = ".migrate"


def put(store: Store, container_id: str, words: str) -> None:
    """Keep other commands away from a container: `to HOST` or `from HOST`."""
    fd = os.open(
        f"{store.path(container_id)}/{GUARD}",
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    with open(fd, "w", encoding="utf-8") as file:
        file.write(words + "\n")


def take(store: Store, container_id: str) -> None:
    """Let other commands at it again."""
    with contextlib.suppress(NotADirectoryError):
        remove_quietly(f"{store.path(container_id)}/{GUARD}")


def is_arriving(store: Store, container_id: str) -> bool:
    """Tell whether a container's id has been taken for one that arrives."""
    try:
        return store.read(container_id, GUARD).startswith(b"from ")
    except (ContainerNotFound, OSError):
        return False


def mark_bundle(
    bundle: str,
    container_id: str,
    *,
    begun_by: str | None = None,
    volumes: Sequence[str] | None = None,
) -> None:
    """Note in a bundle which container's it is, so that it can come back here.

    Args:
        begun_by: the migration that fills it; None where it is whole.
        volumes: paths outside the bundle that are as much the container's; None for
            those that it had before.
    """
    kept = volumes_left_by(bundle, container_id) if volumes is None else [*volumes]
    temporary = f"{bundle}/{MARK}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"container": container_id, "begun_by": begun_by, "volumes": kept}, file)
    os.rename(temporary, f"{bundle}/{MARK}")


def volumes_left_by(bundle: str, container_id: str) -> list[str]:
    """Return the paths outside a bundle that a migration of this container has left."""
    mark = _mark(bundle)
    volumes = mark.get("volumes")
    if mark.get("container") != container_id or not isinstance(volumes, list):
        return []
    return [each for each in volumes if isinstance(each, str)]


def was_left_by(bundle: str, container_id: str) -> bool:
    """Tell whether a bundle is what a migration of this container has left."""
    return _mark(bundle).get("container") == container_id


def was_begun_by(bundle: str, migration: str) -> bool:
    """Tell whether a bundle is being filled by this migration, and no other."""
    return _mark(bundle).get("begun_by") == migration


def begun_by(bundle: str) -> str | None:
    """Return the migration that fills a bundle, None where it is whole."""
    migration = _mark(bundle).get("begun_by")
    return migration if isinstance(migration, str) else None


def _mark(bundle: str) -> dict[str, Any]:
    """Return what a bundle's mark says, nothing where there is none."""
    try:
        with open(f"{bundle}/{MARK}", encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
