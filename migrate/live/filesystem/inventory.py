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
from dataclasses import dataclass, field

from migrate import syscalls
from migrate.errors import FileSyncError
from migrate.live.filesystem.attributes import Xattrs, read_xattrs
from migrate.live.filesystem.batch import MAX_DEPTH, MAX_ENTRIES, NO_LINK, Batch
from migrate.live.filesystem.beneath import open_directory

# A directory that went, or became something else, between two calls.
_WENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

# How far a ctime may lag behind the clock: two ticks of the slowest kernel where
# the file system keeps nanoseconds, two seconds where it keeps seconds (FAT, ext3),
# anything where another machine's clock writes it.
_FINE_NS = 50_000_000
_COARSE_NS = 2_000_000_000
_FOREIGN_NS = 3_600_000_000_000
_FOREIGN_FILE_SYSTEMS = frozenset(
    {
        0x6969,  # NFS
        0xFF534D42,  # CIFS
        0xFE534D42,  # SMB2
        0x65735546,  # FUSE
        0x01021997,  # 9p
        0x00C36400,  # Ceph
    }
)


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
    """

    def __init__(self, root_fd: int) -> None:
        self.root_fd = root_fd
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
        # Files with several names: (device, inode) -> ids, the first one leads.
        self._names_of: dict[tuple[int, int], list[int]] = {}
        self._file_of: dict[int, tuple[int, int]] = {}
        self._walks = 0
        self._floor_ns = 0
        self._lag_ns = _lag_ns(root_fd)

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

    def leader(self, entry: int) -> int:
        """Return the entry that stands for the file this one is a name of."""
        key = self._file_of.get(entry)
        return entry if key is None else self._names_of[key][0]

    def count(self) -> int:
        """Return how many entries there are, the root included."""
        return 1 + sum(map(len, self.children.values()))

    def batch(self, changes: Changes) -> Batch:
        """Return the changes as they travel."""
        rows = sorted([*changes.fresh, *changes.changed])
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

    def walk(self, *, still: bool = False) -> Changes:
        """Look at every entry and return what changed since the walk before.

        Args:
            still: nothing may change meanwhile; what does is an error.

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
        else:
            self._look_again(0, os.fstat(self.root_fd), self.root_fd, ".", changes)
        pending = [(0, "", 0)]
        while pending:
            directory, path, depth = pending.pop()
            if depth > MAX_DEPTH or len(self.names) > MAX_ENTRIES:
                raise FileSyncError(
                    f"rootfs {path[:80]}: more than {MAX_DEPTH} levels or {MAX_ENTRIES} files"
                )
            for name, entry in self._list(directory, path, changes, still=still):
                pending.append((entry, f"{path}/{name}" if path else name, depth + 1))
        self._settle_names(changes)
        self._floor_ns = started_ns - self._lag_ns
        return changes

    def _list(
        self, directory: int, path: str, changes: Changes, *, still: bool
    ) -> list[tuple[str, int]]:
        """Look at one directory's entries; returns its directories."""
        known = self.children.setdefault(directory, {})
        below: list[tuple[str, int]] = []
        fd = self._open(path, still=still)
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
                    if status.st_mode & 0o170000 == 0o040000:
                        below.append((name, entry))
        finally:
            os.close(fd)
        missing = [entry for entry in known.values() if seen[entry] != walk]
        for entry in missing:
            self._drop(entry, changes)
        return below

    def _open(self, path: str, *, still: bool) -> int | None:
        """Open a directory, unless it is a mount point or went meanwhile."""
        try:
            return open_directory(self.root_fd, path)
        except OSError as error:
            # EXDEV, a mount point: what is mounted there is not part of the rootfs.
            if error.errno == errno.EXDEV or (error.errno in _WENT and not still):
                return None
            raise

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
            key = (status.st_dev, status.st_ino)
            self._file_of[entry] = key
            self._names_of.setdefault(key, []).append(entry)
        return entry

    def _read_more(self, entry: int, fd: int, inner: str) -> None:
        """Read what stat does not have: attributes and a link's target."""
        xattrs = read_xattrs(fd, inner)
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
        if status.st_nlink > 1 and entry not in self._file_of and not stat.S_ISDIR(status.st_mode):
            key = (status.st_dev, status.st_ino)
            self._file_of[entry] = key
            self._names_of.setdefault(key, []).insert(0, entry)
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
            key = self._file_of.pop(gone, None)
            if key is not None:
                others = self._names_of[key]
                led = others[0] == gone
                others.remove(gone)
                if not others:
                    del self._names_of[key]
                elif led:
                    changes.heirs[gone] = others[0]
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
        changes.content = list(dict.fromkeys(map(self.leader, content)))


def _read_link(name: str, directory_fd: int) -> str | None:
    """Return a symbolic link's target, or None where it is none any more."""
    try:
        return os.readlink(name, dir_fd=directory_fd)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:
            return None
        raise


def _lag_ns(root_fd: int) -> int:
    if syscalls.fstatfs(root_fd) & 0xFFFFFFFF in _FOREIGN_FILE_SYSTEMS:
        return _FOREIGN_NS
    return _FINE_NS if os.fstat(root_fd).st_ctime_ns % 1_000_000 else _COARSE_NS
