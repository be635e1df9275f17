"""What is in a tree, and what has changed in it since it was looked at last.

Lives here: the walk. Must not live here: content, the wire. Used by both halves
of `migrate.live.filesystem`: on the source to find what to send, on the
destination to find what an earlier migration left.

The kernel's ctime is what tells: it changes with content, owner, mode, extended
attributes and number of names, and no program can set it. Two things it does not
tell. A write within the same tick as the look (`floor_ns` below): such entries are
looked at again. A store through a shared mapping (`mapped.py`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from migrate.errors import FileSyncError
from migrate.live.filesystem.attributes import Xattrs, read_xattrs
from migrate.live.filesystem.batch import MAX_DEPTH, MAX_ENTRIES, NO_LINK, Batch
from migrate.live.filesystem.beneath import open_directory
from migrate.live.filesystem.mapped import Held
from migrate.live.filesystem.names import FileNames
from migrate.live.filesystem.trust import lag_ns
from migrate.live.filesystem.watch import Watch

# A directory that went, or became something else, between two calls.
_WENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(slots=True)
class Changes:
    """What one walk found, by id.

    Attributes:
        gone: what is in a directory before the directory.
        fresh: seen for the first time, directories before what is in them.
        changed: metadata differs, or may.
        content: regular files whose content is new or may differ; one a file,
            however many names it has.
        heirs: entry that stood for a file and is gone, and the one that does now.
    """

    gone: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    content: list[int] = field(default_factory=list)
    heirs: dict[int, int] = field(default_factory=dict)


class Inventory:
    """All entries of a tree by id; `walk` brings it up to date.

    Args:
        root_fd: descriptor of the root; stays the caller's.
        watch: takes every directory that is looked into; None to do without.
        only: the one entry of the root that counts; None for all.
        layer: it is the upper layer of an overlay.
    """

    def __init__(
        self,
        root_fd: int,
        watch: Watch | None = None,
        *,
        only: str | None = None,
        layer: bool = False,
    ) -> None:
        self.root_fd = root_fd
        self._watch = watch
        self._only = only
        self._layer = layer
        self.names: list[str] = []
        self.parents: array[int] = array("I")
        self.modes: array[int] = array("I")
        self.uids: array[int] = array("I")
        self.gids: array[int] = array("I")
        self.sizes: array[int] = array("Q")
        self.mtimes: array[int] = array("q")
        self.rdevs: array[int] = array("Q")
        self.nlinks: array[int] = array("I")
        self.inos: array[int] = array("Q")
        self._ctimes: array[int] = array("q")
        self._seen: array[int] = array("I")
        self.targets: dict[int, str] = {}
        self.xattrs: dict[int, Xattrs] = {}
        self.children: dict[int, dict[str, int]] = {}
        self._files = FileNames()
        self._walks = 0
        self._floor_ns = 2**63 - 1
        self._lag_ns = lag_ns(root_fd)

    # --- questions ---

    def path(self, entry: int) -> str:
        """Return an entry's path below the root; empty for the root."""
        parts: list[str] = []
        while entry:
            parts.append(self.names[entry])
            entry = self.parents[entry]
        return "/".join(reversed(parts))

    def find(self, path: str) -> int | None:
        """Return the id of a path below the root, or None where there is none."""
        entry = 0
        for part in path.strip("/").split("/"):
            found = self.children.get(entry, {}).get(part)
            if found is None:
                return None
            entry = found
        return entry

    def child(self, directory: int, name: str) -> int | None:
        """Return the regular file of that name in a directory, or None."""
        entry = self.children.get(directory, {}).get(name)
        return entry if entry is not None and stat.S_ISREG(self.modes[entry]) else None

    def find_held(self, held: Held) -> set[int]:
        """Return the entries that a file held by a task may be.

        Its path is what the task's own mount namespace calls it, and its inode number
        may be that of an overlay's layer: whatever matches counts.
        """
        path, inode = held
        entry = self.find(path)
        found = set() if entry is None else {entry}
        if entry is None or self.inos[entry] != inode:
            found |= {each for each, ino in enumerate(self.inos) if ino == inode}
        return {each for each in found if self.is_alive(each) and stat.S_ISREG(self.modes[each])}

    def leader(self, entry: int) -> int:
        """Return the entry that stands for the file this one is a name of."""
        return self._files.leader(entry)

    def is_alive(self, entry: int) -> bool:
        """Whether the entry was there at the last walk."""
        siblings = self.children.get(self.parents[entry], {})
        return entry == 0 or siblings.get(self.names[entry]) == entry

    def count(self) -> int:
        """Return how many entries there are, the root included."""
        return 1 + sum(map(len, self.children.values()))

    def batch(self, changes: Changes) -> Batch:
        """Return the changes as they travel."""
        rows = sorted({*changes.fresh, *changes.changed})
        fresh = set(changes.fresh)
        batch = Batch(gone=array("I", changes.gone), ids=array("I", rows))
        batch.names = [self.names[entry] for entry in rows]
        for column in ("parents", "modes", "uids", "gids", "sizes", "mtimes", "rdevs"):
            mine = getattr(self, column)
            setattr(batch, column, array(mine.typecode, [mine[entry] for entry in rows]))
        for entry in rows:
            leader = self.leader(entry)
            batch.links.append(leader if leader != entry and entry in fresh else NO_LINK)
        batch.targets = {
            row: self.targets[entry] for row, entry in enumerate(rows) if entry in self.targets
        }
        batch.xattrs = {
            row: self.xattrs[entry] for row, entry in enumerate(rows) if entry in self.xattrs
        }
        return batch

    # --- the walk ---

    def walk(self, *, still: bool = False, only: set[int] | None = None) -> Changes:
        """Look at every entry and return what changed since the walk before.

        Args:
            still: nothing may change meanwhile; what does is an error.
            only: directories to look into, and what is new below them; None for all.

        Raises:
            FileSyncError: the tree is too large or deep, or is not still.
            OSError: a directory cannot be read.
        """
        started_ns = time.time_ns()
        self._walks += 1
        changes = Changes()
        if self._walks == 1:
            self._add(0, "", os.fstat(self.root_fd), self.root_fd, ".")
            changes.fresh.append(0)
        self._files.shrunk.clear()
        self._visit({0} if only is None else only, changes, still=still, everything=only is None)
        visited: set[int] = set()
        while only is not None and (where := self._of_other_names(changes) - visited):
            self._visit(where, changes, still=still, everything=False)
            visited |= where
        self._settle_names(changes)
        self._floor_ns = started_ns - self._lag_ns
        return changes

    def _visit(self, where: set[int], changes: Changes, *, still: bool, everything: bool) -> None:
        """Look into directories, and those in them: all, or only those that are new."""
        pending = sorted(where, reverse=True)
        while pending:
            directory = pending.pop()
            if directory and directory not in self.children:
                continue  # it has gone with the one it was in
            for entry in self._list(directory, changes, still=still, recursive=everything):
                self.children.setdefault(entry, {})
                pending.append(entry)

    def _of_other_names(self, changes: Changes) -> set[int]:
        """Return the directories of names not looked at, of files that were by another.

        A name that was made or has gone, and a write by it, is an event in its own
        directory only.
        """
        walk, seen = self._walks, self._seen
        where: set[int] = set()
        for file in self._files.shrunk:
            names = self._files.of_file(file)
            if names and all(seen[name] != walk for name in names):
                where.add(self.parents[names[0]])
        grown = {
            self.inos[entry]
            for entry in (*changes.fresh, *changes.content)
            if self.nlinks[entry] > len(self._files.of_same_file(entry))
            and not stat.S_ISDIR(self.modes[entry])
        }
        if grown:
            where.update(
                self.parents[entry]
                for entry, inode in enumerate(self.inos)
                if inode in grown and seen[entry] != walk and self.is_alive(entry)
            )
        return where

    def with_other_names(self) -> set[int]:
        """Return the directories of files that have names outside the tree, too."""
        return {
            self.parents[name]
            for names in self._files.groups()
            for name in names
            if self.nlinks[name] > len(names)
        }

    def _list(self, directory: int, changes: Changes, *, still: bool, recursive: bool) -> list[int]:
        """Look at one directory and its entries.

        Returns:
            The directories in it; only the new ones unless `recursive`.
        """
        known = self.children.setdefault(directory, {})
        below: list[int] = []
        fd = self._enter(directory, changes, still=still)
        if fd is None:
            return below
        walk, inos, modes, ctimes, seen = (
            self._walks,
            self.inos,
            self.modes,
            self._ctimes,
            self._seen,
        )
        floor_ns = self._floor_ns
        try:
            with os.scandir(fd) as entries:
                for found in entries:
                    if directory == 0 and self._only not in (None, found.name):
                        continue
                    try:
                        status = found.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        if still:
                            raise
                        continue
                    name = found.name
                    entry = known.get(name)
                    if entry is None:
                        is_same = suspect = False
                    else:
                        ctime_ns = status.st_ctime_ns
                        suspect = ctimes[entry] != ctime_ns or ctime_ns >= floor_ns
                        is_same = (
                            inos[entry] == status.st_ino
                            and not (modes[entry] ^ status.st_mode) & 0o170000
                            and not (suspect and self._was_replaced(entry, status, fd, name))
                        )
                        if not is_same:
                            self._drop(entry, changes)
                    if entry is None or not is_same:
                        entry = self._add(directory, name, status, fd, name)
                        changes.fresh.append(entry)
                    else:
                        seen[entry] = walk
                        if suspect:
                            self._look_again(entry, status, fd, name, changes)
                    if status.st_mode & 0o170000 == 0o040000 and (recursive or not is_same):
                        below.append(entry)
        finally:
            os.close(fd)
        missing = [entry for entry in known.values() if seen[entry] != walk]
        for entry in missing:
            self._drop(entry, changes)
        return below

    def _enter(self, directory: int, changes: Changes, *, still: bool) -> int | None:
        """Open and watch a directory, unless it is a mount point or went meanwhile."""
        path = self.path(directory)
        if path.count("/") > MAX_DEPTH or len(self.names) > MAX_ENTRIES:
            raise FileSyncError(
                f"files: {path[:80]}: more than {MAX_DEPTH} levels or {MAX_ENTRIES} files"
            )
        try:
            fd = open_directory(self.root_fd, path)
        except OSError as error:
            # EXDEV, a mount point: what is mounted there is not part of the tree.
            if error.errno == errno.EXDEV or (error.errno in _WENT and not still):
                return None
            raise
        if self._watch is not None:
            self._watch.add(directory, fd)
        status = os.fstat(fd)
        if self._ctimes[directory] != status.st_ctime_ns or status.st_ctime_ns >= self._floor_ns:
            self._look_again(directory, status, fd, ".", changes)
        return fd

    def _was_replaced(self, entry: int, status: os.stat_result, fd: int, inner: str) -> bool:
        """Whether a link or a device is another one, its inode number used again."""
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            return _read_link(inner, fd) != self.targets[entry]
        return (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and status.st_rdev != self.rdevs[entry]

    def _add(self, directory: int, name: str, status: os.stat_result, fd: int, inner: str) -> int:
        entry = len(self.names)
        mode = status.st_mode
        self.names.append(name)
        self.parents.append(directory)
        self.modes.append(mode)
        self.uids.append(status.st_uid)
        self.gids.append(status.st_gid)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        self.sizes.append(status.st_size if stat.S_ISREG(mode) else 0)
        self.mtimes.append(status.st_mtime_ns)
        self.rdevs.append(status.st_rdev if is_device else 0)
        self.nlinks.append(status.st_nlink)
        self.inos.append(status.st_ino)
        self._ctimes.append(status.st_ctime_ns)
        self._seen.append(self._walks)
        if entry:
            self.children[directory][name] = entry
        self._read_more(entry, fd, inner)
        if status.st_nlink > 1 and not stat.S_ISDIR(mode):
            self._files.note(entry, (status.st_dev, status.st_ino))
        return entry

    def _read_more(self, entry: int, fd: int, inner: str) -> None:
        """Read what stat does not have: attributes and a link's target."""
        xattrs = read_xattrs(fd, inner, layer=self._layer)
        if xattrs:
            self.xattrs[entry] = xattrs
        else:
            self.xattrs.pop(entry, None)
        if stat.S_ISLNK(self.modes[entry]):
            target = _read_link(inner, fd)
            if target is None:  # replaced since its stat: the next walk finds what it is
                self._ctimes[entry] = 0
            self.targets[entry] = target or "."

    def _look_again(
        self, entry: int, status: os.stat_result, fd: int, inner: str, changes: Changes
    ) -> None:
        before = self._metadata(entry)
        self.modes[entry] = status.st_mode
        self.uids[entry] = status.st_uid
        self.gids[entry] = status.st_gid
        self.mtimes[entry] = status.st_mtime_ns
        self.nlinks[entry] = status.st_nlink
        self._ctimes[entry] = status.st_ctime_ns
        if stat.S_ISREG(status.st_mode):
            self.sizes[entry] = status.st_size
            changes.content.append(entry)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            self._files.note(entry, (status.st_dev, status.st_ino), known_before=True)
        self._read_more(entry, fd, inner)
        if self._metadata(entry) != before:
            changes.changed.append(entry)

    def _metadata(self, entry: int) -> tuple[object, ...]:
        return (
            self.modes[entry],
            self.uids[entry],
            self.gids[entry],
            self.sizes[entry],
            self.mtimes[entry],
            self.xattrs.get(entry),
            self.targets.get(entry),
        )

    def _drop(self, entry: int, changes: Changes) -> None:
        """Forget an entry and everything below it."""
        order = [entry]
        for above in order:  # grows while it is walked: breadth first, so parents first
            order.extend(self.children.pop(above, {}).values())
        for gone in reversed(order):
            changes.gone.append(gone)
            heir = self._files.forget(gone)
            if heir is not None:
                changes.heirs[gone] = heir
            self.targets.pop(gone, None)
            self.xattrs.pop(gone, None)
        siblings = self.children[self.parents[entry]]
        if siblings.get(self.names[entry]) == entry:
            del siblings[self.names[entry]]

    def _settle_names(self, changes: Changes) -> None:
        """Decide, when all names are known, which entry stands for each file."""
        dropped = set(changes.gone)
        unknown = dropped.intersection(changes.fresh)
        changes.gone = [entry for entry in changes.gone if entry not in unknown]
        changes.fresh = [entry for entry in changes.fresh if entry not in dropped]
        changes.changed = [entry for entry in changes.changed if entry not in dropped]
        content = [
            *(entry for entry in changes.fresh if stat.S_ISREG(self.modes[entry])),
            *(entry for entry in changes.content if entry not in dropped),
        ]
        self._tell_other_names([*changes.fresh, *changes.changed, *content], changes)
        changes.content = list(dict.fromkeys(map(self.leader, content)))

    def _tell_other_names(self, looked_at: Iterable[int], changes: Changes) -> None:
        """Note by all names of a file what one of them has shown.

        A walk that does not go everywhere may have come by some of them only.
        """
        latest = {self.leader(each): each for each in looked_at}
        columns = (
            *(self.modes, self.uids, self.gids, self.sizes),
            *(self.mtimes, self.nlinks, self._ctimes),
        )
        for entry in latest.values():
            for other in self._files.of_same_file(entry):
                if self._seen[other] == self._walks:
                    continue
                before = self._metadata(other)
                for column in columns:
                    column[other] = column[entry]
                self.xattrs.pop(other, None)
                if entry in self.xattrs:
                    self.xattrs[other] = self.xattrs[entry]
                if self._metadata(other) != before:
                    changes.changed.append(other)


def _read_link(name: str, directory_fd: int) -> str | None:
    """Return a symbolic link's target, or None where it is none any more."""
    try:
        return os.readlink(name, dir_fd=directory_fd)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:
            return None
        raise
