"""The entries of a tree that a peer names, and whether what it names can be.

Lives here: places and metadata by id, and the checks of a batch against them. Must
not live here: file systems, streams. Pure; the destination's half of
`migrate.live.filesystem` only.
"""

from __future__ import annotations

import stat
from array import array

from migrate.errors import ProtocolError
from migrate.live.filesystem.attributes import Xattrs
from migrate.live.filesystem.batch import MAX_DEPTH, NO_LINK, Batch

# A walk may drop what it found a moment before: ids have gaps, but not wide ones.
_WIDEST_GAP = 1 << 20

Metadata = tuple[int, int, int, int, Xattrs]
"""Mode, owner, group, time of the last change in nanoseconds, extended attributes."""


class Roster:
    """What the destination knows of the source's entries."""

    def __init__(self) -> None:
        # By id; an id that is gone stays in these three.
        self.parents: array[int] = array("I")
        self.names: list[str] = []
        self._depths: array[int] = array("I")
        self.metadata: dict[int, Metadata] = {}
        """Of the entries that are there."""

    def path(self, entry: int) -> str:
        """Return an entry's path below the root; empty for the root."""
        parts: list[str] = []
        while entry:
            parts.append(self.names[entry])
            entry = self.parents[entry]
        return "/".join(reversed(parts))

    def admit(self, batch: Batch) -> set[int]:
        """Take in a batch and return the ids that are new.

        What is gone stays until `drop`.

        Raises:
            ProtocolError: an id, a directory, a type or a link cannot be.
        """
        if not self.names and (not batch.ids or batch.ids[0] != 0):
            raise ProtocolError("file tree: has no root")
        gone = set(batch.gone)
        if 0 in gone or len(gone) != len(batch.gone) or not gone <= self.metadata.keys():
            raise ProtocolError("file tree: something is gone that was not there")
        fresh: set[int] = set()
        last = -1
        for row, entry in enumerate(batch.ids):
            if entry <= last:
                raise ProtocolError("file tree: entries are out of order")
            last = entry
            known = self.metadata.get(entry)
            if known is None:
                self._place(entry, batch, row, gone)
                fresh.add(entry)
            elif entry in gone or not self._is_same(entry, known, batch, row):
                raise ProtocolError(f"file tree: entry {entry} is not what it was")
            self.metadata[entry] = (
                batch.modes[row],
                batch.uids[row],
                batch.gids[row],
                batch.mtimes[row],
                batch.xattrs.get(row, {}),
            )
        return fresh

    def _is_same(self, entry: int, known: Metadata, batch: Batch, row: int) -> bool:
        return (
            stat.S_IFMT(known[0]) == stat.S_IFMT(batch.modes[row])
            and self.parents[entry] == batch.parents[row]
            and self.names[entry] == batch.names[row]
            and batch.links[row] == NO_LINK
        )

    def _place(self, entry: int, batch: Batch, row: int, gone: set[int]) -> None:
        parent, mode, link = batch.parents[row], batch.modes[row], batch.links[row]
        gap = entry - len(self.names)
        if not 0 <= gap <= _WIDEST_GAP:
            raise ProtocolError(f"file tree: entry {entry} cannot be new")
        depth = 0
        if entry == 0:
            fits = parent == 0 and stat.S_ISDIR(mode)
        else:
            above = self.metadata.get(parent)
            fits = above is not None and stat.S_ISDIR(above[0]) and parent not in gone
            depth = self._depths[parent] + 1 if fits else 0
        if link != NO_LINK:
            leader = self.metadata.get(link)
            fits = (
                fits
                and leader is not None
                and link not in gone
                and stat.S_IFMT(leader[0]) == stat.S_IFMT(mode)
                and not stat.S_ISDIR(mode)
            )
        if not fits or depth > MAX_DEPTH + 1:
            raise ProtocolError(f"file tree: entry {entry} cannot be where it is said to be")
        self.parents.extend([0] * gap)
        self._depths.extend([0] * gap)
        self.names.extend([""] * gap)
        self.parents.append(parent)
        self._depths.append(depth)
        self.names.append(batch.names[row])

    def drop(self, entry: int) -> Metadata:
        """Forget an entry; returns what it was."""
        return self.metadata.pop(entry)
