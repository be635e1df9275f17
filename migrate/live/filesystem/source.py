"""The source's half: finds what changed in a tree and sends it.

Lives here: one pass, from the walk to the destination's outcome. Must not live
here: when a pass runs and whether the container is frozen (`migrate.live.source`).

    tree = TreeSource(link, "rootfs", "/bundle/rootfs")
    tree.run()                      # while the container runs, as often as it pays
    tree.run(frozen=True, ...)      # the rest

A file that changes while it is read in a running pass is sent as it was read: its
ctime tells the next pass. Nothing may change in the frozen one.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from migrate.errors import FileSyncError, LinkError, ProtocolError
from migrate.events import Progress, emit
from migrate.live.filesystem import content, passes
from migrate.live.filesystem.batch import encode
from migrate.live.filesystem.beneath import OpenDirectories, open_regular
from migrate.live.filesystem.inventory import Changes, Inventory
from migrate.live.filesystem.mapped import Held
from migrate.live.filesystem.passes import BlockKind, FileKind, Gatherer, PassReport, Want
from migrate.live.filesystem.trust import is_foreign
from migrate.live.filesystem.watch import Watch
from migrate.transport.link import Link
from migrate.transport.receiving import StreamReader

# Where a file that was listed is no file any more.
_WENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ESTALE})

# So many files are sent between two looks at the events, which must not pile up.
_GATHER_EACH = 64

_PROGRESS_BYTES = 8 * 1024 * 1024


class TreeSource:
    """A tree on this host, and what the destination has of it.

    Args:
        link: to the destination, whose `TreeReceiver` has the same label.
        label: names the tree's streams, such as `rootfs`.
        root: path of the tree.
        only: the one file of it that counts; None for all.
        layer: it is the upper layer of an overlay, whose files are written to without
            an event on kernels such as Linux 6.1: the overlay opens them so.
    """

    def __init__(
        self, link: Link, label: str, root: str, *, only: str | None = None, layer: bool = False
    ) -> None:
        self._link = link
        self._label = label
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._watch = None if layer or is_foreign(self._root_fd) else Watch()
        self._inventory = Inventory(self._root_fd, self._watch, only=only, layer=layer)
        self._directories = OpenDirectories(self._root_fd, self._inventory.path)
        self._reader = content.BlockReader()
        self._passes = 0
        # Digests of the blocks that the destination has, by id.
        self._sent: dict[int, bytes] = {}
        self._owed: set[int] = set()

    def close(self) -> None:
        """Let go of the tree."""
        self._directories.close()
        if self._watch is not None:
            self._watch.close()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

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
        """Bring the destination's tree up to date; returns when it is.

        Args:
            frozen: nothing may change the tree meanwhile; what does is an error.
            mapped: files that a task has mapped shared (`mapped.shared_mappings`):
                compared by content, whatever their times say.
            writing: files that a task has open for writing (`mapped.open_for_writing`);
                with them a frozen pass looks only where something happened. None:
                not known, everything is looked at.

        Raises:
            FileSyncError: the tree cannot be read, or the destination cannot
                write it.
            LinkError: the link broke.
        """
        started = time.monotonic()
        self._passes += 1
        report = PassReport(number=self._passes, frozen=frozen)
        try:
            self._run(report, list(mapped), writing)
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else "a file"
            hint = (
                "Stop what writes to the container's files from outside."
                if frozen and error.errno in _WENT
                else ""
            )
            raise FileSyncError(
                f"{self._label}: {where}: {(error.strerror or str(error)).lower()}", hint
            ) from error
        finally:
            self._directories.close()
        report.seconds = time.monotonic() - started
        return report

    def _run(self, report: PassReport, mapped: list[Held], writing: Iterable[Held] | None) -> None:
        inventory = self._inventory
        started = time.monotonic()
        only, closed = self._where(report, writing)
        changes = inventory.walk(still=report.frozen, only=only)
        self._forget(changes)
        also = {inventory.child(directory, name) for directory, name in closed}.union(
            *map(inventory.find_held, mapped)
        )
        compared = [inventory.leader(each) for each in also if each is not None]
        files = list(dict.fromkeys([*changes.content, *compared, *self._owed]))
        batch = inventory.batch(changes)
        report.walk_seconds = time.monotonic() - started
        report.entries = inventory.count()
        report.changed, report.gone = len(batch.ids), len(batch.gone)

        wanted = sum(inventory.sizes[entry] for entry in files)
        blocks = wanted // content.BLOCK_BYTES + len(files)
        budget = (
            wanted
            + blocks * passes.BLOCK_OVERHEAD_BYTES
            + (len(files) + 16) * passes.FILE_OVERHEAD_BYTES
            + sum(map(len, encode(batch)))
        )
        name = passes.stream_name(self._label, report.number)
        stream = self._link.open_stream(name, budget)
        with self._link.accept_stream(
            passes.answer_name(self._label, report.number), timeout_seconds=60.0
        ) as answer:
            try:
                with stream:
                    out = Gatherer(stream)
                    out.write(passes.BEGIN.pack(passes.FORMAT, report.frozen, len(files), wanted))
                    passes.write_batch(out, batch)
                    out.flush()
                    have = self._hear_choice(answer, list(batch.ids)) if report.number == 1 else {}
                    self._send_content(out, files, have, report, wanted)
                    out.write(passes.FILE.pack(FileKind.FINISHED, 0))
                    out.flush()
            except LinkError as broken:
                raise passes.explain(answer, len(batch.ids), broken) from broken
            if passes.receive_answer(answer, 0) is not None:
                raise ProtocolError(f"{self._label}: a second choice where the outcome should be")
        report.wire_bytes = stream.wire_bytes

    def _where(
        self, report: PassReport, writing: Iterable[Held] | None
    ) -> tuple[set[int] | None, set[tuple[int, str]]]:
        """Return where to look (None: everywhere), and files to compare by content.

        A file that was closed after writing may have been mapped meanwhile.
        """
        if self._watch is None or report.number == 1:
            return None, set()
        inventory = self._inventory
        dirty, closed = self._watch.take()
        if not (report.frozen and self._watch.is_reliable) or writing is None:
            return None, closed
        held = set[int]().union(*map(inventory.find_held, writing))
        return dirty | inventory.with_other_names() | {inventory.parents[e] for e in held}, closed

    def _forget(self, changes: Changes) -> None:
        """Let the name that stands for a file now take over what was sent of it."""
        fresh = set(changes.fresh)
        for entry, heir in changes.heirs.items():
            blocks = self._sent.get(entry)
            if blocks is not None and heir not in fresh:
                self._sent[heir] = blocks
        for entry in changes.gone:
            self._sent.pop(entry, None)
            self._owed.discard(entry)

    def _hear_choice(self, answer: StreamReader, ids: list[int]) -> dict[int, bytes]:
        """Return the digests of what the destination has already, by id."""
        choice = passes.receive_answer(answer, len(ids))
        if choice is None:
            raise ProtocolError(f"{self._label}: the destination was done before it began")
        wants, digests = choice
        if not wants:
            return {}
        compared = [entry for entry, want in zip(ids, wants, strict=True) if want == Want.COMPARE]
        size = content.DIGEST_BYTES
        if len(compared) * size != len(digests):
            raise ProtocolError(f"{self._label}: the destination's choice does not fit its digests")
        return {entry: digests[at * size :][:size] for at, entry in enumerate(compared)}

    # --- content ---

    def _send_content(
        self,
        out: Gatherer,
        files: list[int],
        have: dict[int, bytes],
        report: PassReport,
        wanted: int,
    ) -> None:
        shown = 0
        for at, entry in enumerate(files):
            self._send_file(out, entry, have.get(entry), report)
            if self._watch is not None and at % _GATHER_EACH == 0:
                self._watch.gather()
            if report.content_bytes - shown >= _PROGRESS_BYTES:
                shown = report.content_bytes
                emit(Progress(step=self._label, done_bytes=shown, total_bytes=wanted))
        emit(Progress(step=self._label, done_bytes=report.content_bytes, total_bytes=wanted))

    def _send_file(
        self, out: Gatherer, entry: int, theirs: bytes | None, report: PassReport
    ) -> None:
        inventory = self._inventory
        self._owed.discard(entry)
        try:
            fd = open_regular(
                self._directories.fd(inventory.parents[entry]),
                inventory.names[entry],
                os.O_RDONLY | os.O_NOATIME,
            )
        except OSError as error:
            if report.frozen or error.errno not in _WENT:
                error.filename = inventory.path(entry)
                raise
            self._owed.add(entry)
            self._sent.pop(entry, None)
            out.write(passes.FILE.pack(FileKind.GONE, entry))
            return
        try:
            before = os.fstat(fd)
            size = min(inventory.sizes[entry], before.st_size)
            if theirs is not None:
                blocks = content.file_blocks(self._reader, fd, size)
                if content.file_digest(blocks) == theirs:
                    self._sent[entry] = blocks
                    out.write(passes.FILE.pack(FileKind.SAME, entry))
                    return
            self._send_blocks(out, entry, fd, size, report)
            if report.frozen:
                self._check_still(entry, before, os.fstat(fd))
        finally:
            os.close(fd)

    def _check_still(self, entry: int, before: os.stat_result, after: os.stat_result) -> None:
        if (before.st_ctime_ns, before.st_size) != (after.st_ctime_ns, after.st_size):
            raise FileSyncError(
                f"{self._label} {self._inventory.path(entry)}: changed while the container "
                "was frozen",
                "Stop what writes to the container's files from outside.",
            )

    def _send_blocks(
        self, out: Gatherer, entry: int, fd: int, size: int, report: PassReport
    ) -> None:
        """Send what differs from what the destination has; nothing if nothing does."""
        known = self._sent.get(entry)
        kind = FileKind.WHOLE if known is None else FileKind.PATCH
        old = known or b""
        now = bytearray()
        begun = False
        end = 0
        for offset, data, extents in self._reader.blocks(fd, size):
            is_hole = isinstance(data, int)
            length = data if isinstance(data, int) else len(data)
            value = content.hole_digest(data) if isinstance(data, int) else content.digest(data)
            at = len(now)
            now += value
            end = offset + length
            if old[at : at + content.DIGEST_BYTES] == value or (is_hole and known is None):
                continue
            if not begun:
                begun = True
                out.write(passes.FILE.pack(kind, entry))
            if isinstance(data, int):
                out.write(passes.BLOCK.pack(BlockKind.ZERO, offset, length))
            else:
                report.content_bytes += _send_block(out, offset, data, extents)
        if known is None or begun or len(now) != len(old):
            if not begun:
                out.write(passes.FILE.pack(kind, entry))
            report.files += 1
            out.write(
                passes.BLOCK.pack(BlockKind.END, end, content.DIGEST_BYTES)
                + content.file_digest(now)
            )
        self._sent[entry] = bytes(now)


def _send_block(
    out: Gatherer, offset: int, data: memoryview, extents: content.Extents | None
) -> int:
    """Send one block; returns how many bytes of it are data."""
    if extents is None:
        out.write(passes.BLOCK.pack(BlockKind.FULL, offset, len(data)))
        out.copy(data)
        return len(data)
    out.write(
        passes.BLOCK.pack(BlockKind.SPARSE, offset, len(data))
        + len(extents).to_bytes(2, "little")
        + b"".join(passes.EXTENT.pack(start, length) for start, length in extents)
    )
    for start, length in extents:
        out.copy(data[start : start + length])
    return sum(length for _, length in extents)
