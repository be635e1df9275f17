"""Marks that say: a migration is at work here, or was.

Lives here: the guard file in a container's state folder, and the mark in a bundle
that a migration has left. `live` only; `runtime.state` knows the guard's name and
refuses the commands that would come between.
"""

from __future__ import annotations

import contextlib
import json
import os

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


def mark_bundle(bundle: str, container_id: str, *, whole: bool) -> None:
    """Note in a bundle which container's it is, so that it can come back here."""
    temporary = f"{bundle}/{MARK}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"container": container_id, "whole": whole}, file)
    os.rename(temporary, f"{bundle}/{MARK}")


def was_left_by(bundle: str, container_id: str) -> bool:
    """Tell whether a bundle is what a migration of this container has left."""
    try:
        with open(f"{bundle}/{MARK}", encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.get("container") == container_id
