"""What the destination makes of a container's volumes and layers, and takes away again.

Lives here: that, described by the journal before any of it is made. Must not live here:
what is wanted (`travel`), when (`live.arrival`, `live.incoming`). `live` only.

What was there before is never removed: a folder is taken where it is empty, or where a
migration of this container has left it, which the mark in its bundle says. The mark
names what was made, as soon as it is made: what is not named there is somebody else's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from migrate.errors import MigrationError, ProtocolError, Refused
from migrate.live import guard
from migrate.live.filesystem.beneath import remove
from migrate.live.filesystem.trees import ROOTFS, Tree
from migrate.live.removal import remove_tree
from migrate.live.volumes import layers
from migrate.live.volumes.find import is_within, kind_of
from migrate.live.volumes.layers import Overlay
from migrate.live.volumes.volume import ABSENT, FILE, FOLDER, Stowed
from migrate.live.wire import fill

_EMPTY, _LEFT = "empty", "left"


@dataclass(slots=True)
class Stowage:
    """All of it, for one container.

    Attributes:
        bundle: path on this host.
        volumes: those that are made here.
        overlay: what the root file system becomes, or None for a plain folder.
    """

    bundle: str
    container_id: str
    volumes: list[Stowed] = field(default_factory=list)
    overlay: Overlay | None = None

    @staticmethod
    def of(bundle: str, container_id: str, data: Mapping[str, Any]) -> Stowage:
        """Return what `to_json` wrote, or the source sent.

        Raises:
            ProtocolError: it is not that.
        """
        rows, overlay = data.get("volumes", []), data.get("overlay")
        if not isinstance(rows, list):
            raise ProtocolError("reserve: volumes is no list")
        volumes = [fill(Stowed(), each, "reserve: volumes") for each in rows]
        for each in volumes:
            is_plain = os.path.normpath(each.path) == each.path and "\0" not in each.path
            if not each.path.startswith("/") or not is_plain or each.kind not in (FOLDER, FILE):
                raise ProtocolError(f"reserve: {each.path!r} cannot be a volume's path")
        found = None if overlay is None else Overlay.from_json(overlay)
        return Stowage(bundle, container_id, volumes, found)

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        return {
            "volumes": [asdict(each) for each in self.volumes],
            "overlay": None if self.overlay is None else self.overlay.to_json(),
        }

    def claim(self) -> None:
        """Note what is at each place now; nothing is touched.

        Raises:
            Refused: it is somebody else's.
        """
        for each in self.volumes:
            kind = kind_of(each.path)[0]
            if kind == ABSENT and not os.path.lexists(each.path):
                each.was = ABSENT
                each.parents = _missing(os.path.dirname(each.path))
            elif kind == each.kind and is_left(each.path, self.bundle, self.container_id):
                each.was = _LEFT
            elif kind == each.kind and _is_empty(each.path, kind):
                status = os.stat(each.path)
                each.was = _EMPTY
                each.old = [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
            else:
                raise Refused(
                    f"volume {each.path} is there already, is not empty and not left by a "
                    f"migration of {self.container_id}",
                    "Move it away, or give another path by --map.",
                )

    def make(self, begun_by: str) -> None:
        """Make what is not there; the bundle and its mark are.

        Raises:
            OSError: it cannot be made, or somebody else has made it meanwhile.
        """
        if self.overlay is not None:
            self.overlay.make(self.bundle)
        marked = guard.volumes_left_by(self.bundle, self.container_id)
        for each in self.volumes:
            if each.was == ABSENT:
                os.makedirs(os.path.dirname(each.path), 0o755, exist_ok=True)
                _make(each)
            elif each.policy == "skip":
                _empty(each)
            if each.path not in marked:
                marked.append(each.path)
                guard.mark_bundle(self.bundle, self.container_id, begun_by=begun_by, volumes=marked)

    def undo(self) -> None:
        """Take away what was made, and what came into it.

        Raises:
            MigrationError: something of it is left.
            OSError: likewise.
        """
        if self.overlay is not None:
            layers.unmount(f"{self.bundle}/rootfs")
        marked = guard.volumes_left_by(self.bundle, self.container_id)
        for each in self.volumes:
            if each.was == _LEFT:
                continue
            if each.path in marked:
                _unmake(each)
            elif each.was == ABSENT and each.kind == FOLDER:
                with contextlib.suppress(OSError):  # made, and not marked yet: it is empty
                    os.rmdir(each.path)
            for folder in each.parents:
                with contextlib.suppress(OSError):  # another's, or the bundle's, is in it
                    os.rmdir(folder)
        gone = {each.path for each in self.volumes if each.was != _LEFT}
        if gone & set(marked) and os.path.isdir(self.bundle):
            kept = [path for path in marked if path not in gone]
            guard.mark_bundle(
                self.bundle, self.container_id, begun_by=guard.begun_by(self.bundle), volumes=kept
            )

    def trees(self, rootfs: str) -> list[Tree]:
        """Return what files are taken in for, the root file system first."""
        root = Tree(label=ROOTFS, root=rootfs)
        if self.overlay is not None:
            root = Tree(label=ROOTFS, root=self.overlay.upper(self.bundle), layer=True)
        return [root, *(tree_of(at, each.path, each.kind) for at, each in self._copied())]

    def _copied(self) -> list[tuple[int, Stowed]]:
        return [(at, each) for at, each in enumerate(self.volumes) if each.policy == "sync"]

    def mount(self) -> None:
        """Mount what has to be, once all files are there.

        Raises:
            FileSyncError: it cannot be.
        """
        if self.overlay is not None:
            self.overlay.mount(self.bundle)


def tree_of(number: int, path: str, kind: str, points: Mapping[str, str] | None = None) -> Tree:
    """Return a volume's tree.

    Args:
        number: its place in the stowage.
        points: see `Tree`.
    """
    real = os.path.realpath(path)
    if kind == FOLDER:
        return Tree(label=f"volume/{number}", root=real, points=points)
    folder, name = os.path.split(real)
    return Tree(label=f"volume/{number}", root=folder, only=name, points=points)


def is_left(path: str, bundle: str, container_id: str) -> bool:
    """Tell whether a volume's path is what a migration of this container has left."""
    if is_within(path, bundle):
        return guard.was_left_by(bundle, container_id)
    return path in guard.volumes_left_by(bundle, container_id)


def _missing(folder: str) -> list[str]:
    """Return what of the way to a folder is not there, the deepest first."""
    found = []
    while not os.path.lexists(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def _is_empty(path: str, kind: str) -> bool:
    if kind == FILE:
        return os.path.getsize(path) == 0
    with os.scandir(path) as entries:
        return next(entries, None) is None


def _make(each: Stowed) -> None:
    """Make an empty folder or file; one that is there is somebody else's."""
    if each.kind == FOLDER:
        os.mkdir(each.path, 0o700)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(each.path, flags, 0o600))
    os.chown(each.path, each.uid, each.gid)
    os.chmod(each.path, stat.S_IMODE(each.mode))


def _empty(each: Stowed) -> None:
    """Leave nothing in a folder or file."""
    if each.kind == FILE:
        os.truncate(each.path, 0)
    else:
        _clear(os.path.realpath(each.path))


def _unmake(each: Stowed) -> None:
    """Remove what was made, or empty what was empty."""
    with contextlib.suppress(FileNotFoundError):
        if each.was != ABSENT:
            _empty(each)
        elif each.kind == FOLDER:
            remove_tree(each.path)
        else:
            os.unlink(each.path)
    if each.was == _EMPTY and each.old and os.path.exists(each.path):
        mode, uid, gid = each.old
        os.chown(each.path, uid, gid)
        os.chmod(each.path, mode)


def _clear(path: str) -> None:
    """Remove everything in a folder."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            remove(fd, name)
    except OSError as error:
        raise MigrationError(
            f"{path} cannot be emptied: {(error.strerror or str(error)).lower()}",
            "Empty it by hand, then run recover again.",
        ) from error
    finally:
        os.close(fd)
