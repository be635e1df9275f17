"""A bundle's place on the destination: claimed, filled, marked, given back.

Lives here: the mark that says whose tree it is and whether it is whole, and what
becomes of `root.path` when a bundle changes its place. Must not live here: the
sync. Imported by `migrate.live` on both sides.

The mark is a file `.migrate` in the bundle. The destination writes it before the
first byte of the container, so that a tree that was left half way is never taken
for a whole one, and so that only a tree of the same container is ever written
over. The source leaves one when its container has gone: it may come back.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from typing import Any, Literal

from migrate.errors import ConfigError, FileSyncError
from migrate.live.filesystem.beneath import open_beneath, remove

MARK = ".migrate"

State = Literal["receiving", "whole", "departed"]
_STATES = ("receiving", "whole", "departed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the mark in a bundle says.

    Attributes:
        container: id of the container the bundle belongs to.
        migration: id of the migration that wrote it last.
        state: being received; complete, the container lives here; or departed.
    """

    container: str
    migration: str
    state: State


@dataclass(slots=True, kw_only=True)
class Claim:
    """A place taken for a bundle, JSON-able, so that a journal can give it back.

    Attributes:
        bundle: absolute path of the bundle.
        rootfs: absolute path of the rootfs, in it.
        made: directories that did not exist before, the outermost first.
        mark: the state of the mark found there, or "".
    """

    bundle: str
    rootfs: str
    made: list[str]
    mark: str

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)


def read_mark(bundle: str) -> Mark | None:
    """Return a bundle's mark, or None where it has none that can be read."""
    try:
        fd = os.open(f"{bundle}/{MARK}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        said = json.loads(os.read(fd, 4096))
        if said["state"] not in _STATES:
            return None
        return Mark(
            container=str(said["container"]),
            migration=str(said["migration"]),
            state=said["state"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finally:
        os.close(fd)


def write_mark(bundle: str, container: str, migration: str, state: State) -> None:
    """Mark a bundle, durably.

    Raises:
        FileSyncError: the mark cannot be written.
    """
    said = json.dumps({"container": container, "migration": migration, "state": state})
    temporary = f"{bundle}/{MARK}.{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        try:
            os.write(fd, said.encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, f"{bundle}/{MARK}")
        directory = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise FileSyncError(
            f"{bundle}: cannot be marked: {(error.strerror or '').lower()}"
        ) from error


def obstacle(bundle: str, container: str) -> tuple[str, str] | None:
    """Say why a bundle may not be written to `bundle`: what is wrong, and the way out.

    Changes nothing; returns None where the place is free, empty, or an earlier
    migration of the same container left its tree there.
    """
    if not bundle.startswith("/") or "\0" in bundle or ".." in bundle.split("/"):
        return f"bundle {bundle!r} is not an absolute path", "Give the bundle's absolute path."
    try:
        status = os.lstat(bundle)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"bundle {bundle}: {(error.strerror or '').lower()}", "Choose another bundle path."
    if not stat.S_ISDIR(status.st_mode):
        return f"bundle {bundle} exists and is no directory", "Move it away."
    with os.scandir(bundle) as entries:
        if next(entries, None) is None:
            return None
    mark = read_mark(bundle)
    if mark is None:
        return (
            f"bundle {bundle} exists on the destination and no migration left it there",
            "Move it away, or choose another bundle path.",
        )
    if mark.container != container:
        return (
            f'bundle {bundle} belongs to container "{mark.container}"',
            "Choose another bundle path.",
        )
    return None


def claim(bundle: str, rootfs: str, container: str, migration: str) -> Claim:
    """Take a place for a bundle and make its directories.

    Args:
        bundle: absolute path.
        rootfs: where its root file system goes, below the bundle (`reroot`).
        container: id.
        migration: id.

    Raises:
        FileSyncError: the place is somebody else's, or cannot be made.
    """
    problem = obstacle(bundle, container)
    if problem:
        raise FileSyncError(*problem)
    taken = Claim(bundle=bundle, rootfs=rootfs, made=_missing(bundle), mark="")
    if not taken.made:
        mark = read_mark(bundle)
        taken.mark = mark.state if mark else ""
    try:
        for directory in taken.made:
            # Images and rootfs hold what the container keeps to itself.
            os.mkdir(directory, 0o700 if directory == bundle else 0o755)
        write_mark(bundle, container, migration, "receiving")
        bundle_fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _make_rootfs(bundle_fd, os.path.relpath(rootfs, bundle))
        finally:
            os.close(bundle_fd)
    except OSError as error:
        release(taken, container)
        raise FileSyncError(
            f"bundle {bundle}: {error.filename or bundle}: {(error.strerror or '').lower()}"
        ) from error
    return taken


def _missing(path: str) -> list[str]:
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing


def _make_rootfs(bundle_fd: int, relative: str) -> None:
    """Make the rootfs's directories one by one, following nothing."""
    path = ""
    for part in relative.split("/"):
        above = open_beneath(bundle_fd, path, os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(part, 0o755, dir_fd=above)
        except FileExistsError:
            pass
        finally:
            os.close(above)
        path = f"{path}/{part}" if path else part
    os.close(open_beneath(bundle_fd, path, os.O_PATH | os.O_DIRECTORY))


def release(taken: Claim, container: str) -> None:
    """Give a place back after a failure; may be called again, and by a later process.

    What was made is removed. What was there before keeps what has arrived, marked as
    not whole: the next migration of the same container goes on from it.
    """
    mark = read_mark(taken.bundle)
    if mark is None or mark.container != container or mark.state != "receiving":
        return
    if taken.bundle not in taken.made:
        return
    parent = os.open(os.path.dirname(taken.bundle), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove(parent, os.path.basename(taken.bundle))
    finally:
        os.close(parent)
    for directory in reversed(taken.made[:-1]):
        try:
            os.rmdir(directory)
        except OSError:
            return  # somebody has put something there, or it has gone already


def reroot(config: bytes, source_bundle: str, destination_bundle: str) -> tuple[bytes, str]:
    """Move a config.json to another bundle.

    A relative `root.path` stays as it is, and config.json byte for byte. An absolute
    one inside the source's bundle becomes the same place in the other one. One outside
    it becomes `rootfs`, because no peer may choose which directory here is written.

    Args:
        config: config.json as it was.
        source_bundle: absolute path on the source.
        destination_bundle: absolute path on the destination.

    Returns:
        The new config.json, and the absolute path of the rootfs on the destination.

    Raises:
        ConfigError: `root.path` is not there.
    """
    try:
        spec = json.loads(config)
        path = spec["root"]["path"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError("$.root.path", "is not there") from None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError("$.root.path", f"{path!r} is no path")
    source_bundle = os.path.normpath(source_bundle)
    absolute = os.path.normpath(os.path.join(source_bundle, path))
    inside = absolute.startswith(source_bundle + "/")
    relative = os.path.relpath(absolute, source_bundle) if inside else "rootfs"
    rootfs = os.path.normpath(os.path.join(destination_bundle, relative))
    if inside and not path.startswith("/"):
        return config, rootfs
    spec["root"]["path"] = relative
    return json.dumps(spec, indent="\t", ensure_ascii=False).encode(), rootfs


def left_out(bundle: str, rootfs: str) -> list[str]:
    """What a sync of the bundle itself leaves alone: rootfs, config.json and the mark.

    For both halves: `TreeSource(excluded=...)` and `TreeReceiver(excluded=...)`.
    """
    return [MARK, "config.json", os.path.relpath(rootfs, bundle)]
