"""What an earlier migration left on the destination, and how much of it still fits.

Lives here: the comparison of an existing tree with the first batch, and the
removal of what is not in it. Must not live here: writing. The destination's half
of `migrate.live.filesystem` only.

An entry is adopted where it can become the source's by a change of metadata. A
regular file of the same size is offered by digest, so that the source can say
whether it is the same: two files of one size and one time may differ (images are
often built with all times equal). A file with several names is always sent anew:
some of them might lie outside this tree.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from migrate.live.filesystem import content
from migrate.live.filesystem.batch import NO_LINK, Batch
from migrate.live.filesystem.beneath import OpenDirectories, open_regular, remove
from migrate.live.filesystem.inventory import Inventory
from migrate.live.filesystem.passes import Want


@dataclass(slots=True)
class Adopted:
    """What stays of the old tree.

    Attributes:
        wants: a Want for each row of the batch.
        digests: of the files to compare, in the order of their rows.
        blocks: digests of those files' blocks, by id.
        entries: ids that exist already and need no creation.
        settled: those of them that have the right metadata, too; no directories, whose
            time changes with what is in them.
    """

    wants: bytearray
    digests: bytearray = field(default_factory=bytearray)
    blocks: dict[int, bytes] = field(default_factory=dict)
    entries: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)


def adopt(
    root_fd: int, batch: Batch, *, only: str | None = None, layer: bool = False
) -> Adopted | None:
    """Make an existing tree the beginning of the one that `batch` describes.

    Removes what is in the way. Returns None where there is nothing to adopt.

    Args:
        only: the one file of the root that counts, and may be removed; None for all.
        layer: it is the upper layer of an overlay.

    Raises:
        OSError: the old tree cannot be read or removed.
    """
    with os.scandir(root_fd) as entries:
        if next(entries, None) is None:
            return None
    old = Inventory(root_fd, only=only, layer=layer)
    old.walk()
    adopted = Adopted(bytearray(len(batch.ids)))
    old_of = {0: 0}
    adopted.entries.add(0)
    with OpenDirectories(root_fd, old.path) as directories:
        reader = content.BlockReader()
        for row, entry in enumerate(batch.ids):
            mode = batch.modes[row]
            is_regular = stat.S_ISREG(mode)
            if is_regular and batch.links[row] == NO_LINK:
                adopted.wants[row] = Want.CONTENT
            if entry == 0:
                continue
            directory = old_of.get(batch.parents[row])
            known = old.children.get(directory, {}) if directory is not None else {}
            found = known.get(batch.names[row])
            if found is None or not _fits(old, found, batch, row):
                continue
            if is_regular:
                fd = open_regular(directories.fd(old.parents[found]), old.names[found], os.O_RDONLY)
                try:
                    blocks = content.file_blocks(reader, fd, old.sizes[found])
                finally:
                    os.close(fd)
                adopted.wants[row] = Want.COMPARE
                adopted.blocks[entry] = blocks
                adopted.digests += content.file_digest(blocks)
            adopted.entries.add(entry)
            if not stat.S_ISDIR(mode) and _is_settled(old, found, batch, row):
                adopted.settled.add(entry)
            old_of[entry] = found
        _remove_others(old, set(old_of.values()), directories)
    return adopted


def _fits(old: Inventory, found: int, batch: Batch, row: int) -> bool:
    mode = batch.modes[row]
    if stat.S_IFMT(old.modes[found]) != stat.S_IFMT(mode) or batch.links[row] != NO_LINK:
        return False
    if stat.S_ISDIR(mode):
        return True
    if old.nlinks[found] != 1:
        return False
    if stat.S_ISREG(mode):
        return old.sizes[found] == batch.sizes[row]
    if stat.S_ISLNK(mode):
        return old.targets[found] == batch.targets[row]
    return old.rdevs[found] == batch.rdevs[row]


def _is_settled(old: Inventory, found: int, batch: Batch, row: int) -> bool:
    return (
        old.modes[found] == batch.modes[row]
        and old.uids[found] == batch.uids[row]
        and old.gids[found] == batch.gids[row]
        and old.mtimes[found] == batch.mtimes[row]
        and old.xattrs.get(found, {}) == batch.xattrs.get(row, {})
    )


def _remove_others(old: Inventory, kept: set[int], directories: OpenDirectories) -> None:
    """Remove what was not adopted; below what goes as a whole nothing is looked at."""
    for directory, children in old.children.items():
        if directory not in kept:
            continue
        for name, entry in children.items():
            if entry not in kept:
                remove(directories.fd(directory), name)
