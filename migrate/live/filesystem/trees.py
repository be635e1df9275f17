"""All trees of a container together: its root file system and its volumes.

Lives here: running their passes as one, on either side. Must not live here: one tree
(`source.py`, `receiver.py`), which trees there are (`migrate.live.volumes`).

While the container runs, one tree follows the other; while it stands still, all are
looked at and sent at the same time, so that each costs no round trip of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from migrate import syscalls
from migrate.live.filesystem.mapped import Held
from migrate.live.filesystem.passes import PassReport
from migrate.live.filesystem.receiver import TreeReceiver
from migrate.live.filesystem.source import TreeSource
from migrate.live.work import Work
from migrate.transport.link import Link

ROOTFS = "rootfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One tree.

    Attributes:
        label: the same on both sides.
        root: path on this host.
        only: the one file of it that counts, or None.
        layer: it is the upper layer of an overlay.
        points: where the container sees it: paths inside, and what of the tree is there;
            None for the root file system.
    """

    label: str
    root: str
    only: str | None = None
    layer: bool = False
    points: Mapping[str, str] | None = field(default=None)

    def held(self, files: Iterable[Held]) -> list[Held]:
        """Return those of the files that tasks hold that may be in this tree, as it calls them."""
        if self.points is None:
            return list(files)
        found = []
        for path, inode in files:
            for point, inside in self.points.items():
                if path == point and self.only is not None:
                    found.append((self.only, inode))
                elif path.startswith(f"{point.rstrip('/')}/"):
                    found.append((f"{inside}/{path[len(point) :].lstrip('/')}".lstrip("/"), inode))
        return found


class SourceTrees:
    """The source's halves; used like one `TreeSource`.

    Args:
        link: to the destination, whose `receive` has the same trees.
        trees: the root file system first.
        shared: paths on storage that the destination has mounted, too: what was written
            to them must have left this host before anything runs there.
    """

    def __init__(self, link: Link, trees: Sequence[Tree], *, shared: Sequence[str] = ()) -> None:
        self._shared = list(shared)
        self._stack = contextlib.ExitStack()
        self._trees: list[tuple[Tree, TreeSource]] = []
        with contextlib.ExitStack() as stack:
            for tree in trees:
                source = TreeSource(link, tree.label, tree.root, only=tree.only, layer=tree.layer)
                self._trees.append((tree, stack.enter_context(source)))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let go of all."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        *,
        frozen: bool = False,
        mapped: Iterable[Held] = (),
        writing: Iterable[Held] | None = None,
    ) -> PassReport:
        """Bring all of the destination's trees up to date; see `TreeSource.run`.

        A pass that knows what is open for writing is one that nobody disturbs: all go at
        the same time.

        Returns:
            The sum.
        """
        held, open_files = list(mapped), None if writing is None else list(writing)

        def run_one(tree: Tree, source: TreeSource) -> PassReport:
            return source.run(
                frozen=frozen,
                mapped=tree.held(held),
                writing=None if open_files is None else tree.held(open_files),
            )

        first, *rest = self._trees
        if open_files is None:
            for path in self._shared:
                _flush(path)  # so that little is left for when it stands still
            return _sum([run_one(*each) for each in self._trees])
        others: list[Work[PassReport]] = [
            Work(f"files-{each[0].label}", lambda each=each: run_one(*each))  # type: ignore[misc]
            for each in rest
        ]
        flushes = [Work(f"flush-{path}", lambda path=path: _flush(path)) for path in self._shared]  # type: ignore[misc]
        started: list[Work[Any]] = [*others, *flushes]
        for work in started:
            work.start()
        try:
            reports = [run_one(*first)]
        finally:
            for work in started:
                work.end()
        for flush in flushes:
            flush.result()
        return _sum([*reports, *(work.result() for work in others)])


def _flush(path: str) -> None:
    """Write out what was written to the file system of a path, see syncfs(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def _sum(reports: list[PassReport]) -> PassReport:
    """Return what several trees' passes come to."""
    total = reports[0]
    for each in reports[1:]:
        total.entries += each.entries
        total.changed += each.changed
        total.gone += each.gone
        total.files += each.files
        total.content_bytes += each.content_bytes
        total.wire_bytes += each.wire_bytes
        total.walk_seconds += each.walk_seconds
        total.seconds = max(total.seconds, each.seconds)
    return total


def receive(link: Link, trees: Sequence[Tree]) -> None:
    """Take in every pass of every tree, the frozen ones included.

    Raises:
        MigrateError: one failed; the source was told. The others have ended, too.
    """
    works = [Work(f"files-{tree.label}", lambda tree=tree: _receive(link, tree)) for tree in trees]  # type: ignore[misc]
    for work in works:
        work.start()
    for work in works:
        work.end()
    for work in works:
        work.result()


def _receive(link: Link, tree: Tree) -> None:
    with TreeReceiver(link, tree.label, tree.root, only=tree.only, layer=tree.layer) as receiver:
        while not receiver.run().frozen:
            pass
