"""The destination's half: makes a tree what the source says it is.

Lives here: one pass, from the source's batch to the outcome. Must not live here:
when a pass runs. `migrate.live.destination` runs it in a thread of its own:

    with TreeReceiver(link, "rootfs", "/bundle/rootfs") as tree:
        while not tree.run().frozen:
            pass

The batch is input: names are single components, directories are opened beneath
the root, and nothing is written but through descriptors. Owners, modes and times
of directories come last, because making what is in them changes them. Until the
frozen pass ended well the tree is not whole; the mark in its bundle says so.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from types import TracebackType
from typing import Self

from migrate.errors import FileSyncError, LinkError, MigrateError, ProtocolError
from migrate.live.filesystem import attributes, passes
from migrate.live.filesystem.base import Adopted, adopt
from migrate.live.filesystem.batch import NO_LINK, Batch
from migrate.live.filesystem.beneath import OpenDirectories, open_regular
from migrate.live.filesystem.content import DIGEST_BYTES
from migrate.live.filesystem.files import FileWriter
from migrate.live.filesystem.passes import ANSWER, AnswerKind, FileKind, PassReport
from migrate.live.filesystem.roster import Metadata, Roster
from migrate.transport.link import Link
from migrate.transport.receiving import StreamReader
from migrate.transport.sending import StreamWriter

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_OCCUPIED = frozenset({errno.EXDEV, errno.EBUSY})

_MAX_BYTES = 1 << 42


class TreeReceiver:
    """A tree on this host that becomes the source's.

    Args:
        link: to the source, whose `TreeSource` has the same label.
        label: names the tree's streams.
        root: path of the tree, an existing directory: empty, or what an earlier
            migration left.
        only: the one file of it that may come; None for all. Nothing else of the
            directory is touched then, nor is the directory itself.
        layer: it becomes the upper layer of an overlay.
        max_bytes: content of one pass beyond which it is refused.
    """

    def __init__(
        self,
        link: Link,
        label: str,
        root: str,
        *,
        only: str | None = None,
        layer: bool = False,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._link = link
        self._label = label
        self._root = root
        self._only = only
        self._layer = layer
        self._max_bytes = max_bytes
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._root_fd = os.open(root, flags)
        self._roster = Roster()
        self._directories = OpenDirectories(self._root_fd, self._roster.path)
        self._files = FileWriter()
        self._passes = 0
        # Files that are not there yet, names whose file is not, files whose content
        # is known to be old: none may be left after the frozen pass.
        self._absent: set[int] = set()
        self._unlinked: dict[int, int] = {}
        self._stale: set[int] = set()
        # Of the pass under way: entries whose metadata is still to be set.
        self._unfinished: set[int] = set()

    def close(self) -> None:
        """Let go of the tree."""
        self._directories.close()
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

    def run(self) -> PassReport:
        """Take part in the source's next pass; returns when it is applied.

        Raises:
            FileSyncError: the tree cannot be written; the source is told.
            LinkError: the link broke, or the source gave up.
            ProtocolError: the source sent what no source sends.
        """
        self._passes += 1
        report = PassReport(number=self._passes, frozen=False)
        # Opened before the source's stream is waited for: saves it a round trip.
        answer = self._link.open_stream(passes.answer_name(self._label, self._passes))
        name = passes.stream_name(self._label, self._passes)
        with self._link.accept_stream(name) as stream:
            started = time.monotonic()
            try:
                self._apply(stream, answer, report)
                passes.expect_end(stream)
            except (OSError, MigrateError) as error:
                said = self._explain(error) if isinstance(error, OSError) else error
                _tell(answer, said)
                raise said from error
            finally:
                self._directories.close()
            passes.send_outcome(answer, None)
            report.seconds = time.monotonic() - started
            report.wire_bytes = stream.wire_bytes
            return report

    def _explain(self, error: OSError) -> FileSyncError:
        where = f"{self._root}/{error.filename}" if isinstance(error.filename, str) else self._root
        hint = ""
        if error.errno in _FULL:
            hint = f"Free space on the file system of {self._root}."
        elif error.errno == errno.ENOTSUP:
            hint = "Use a file system with extended attributes and access lists for the bundle."
        elif error.errno in _OCCUPIED:
            hint = f"Unmount what is mounted below {self._root}."
        return FileSyncError(f"{where}: {(error.strerror or str(error)).lower()}", hint)

    # --- one pass ---

    def _apply(self, stream: StreamReader, answer: StreamWriter, report: PassReport) -> None:
        head = stream.read_exactly(passes.BEGIN.size)
        form, frozen, files, announced_bytes = passes.BEGIN.unpack(head)
        if form != passes.FORMAT:
            raise ProtocolError(f"{self._label}: format {form} is not {passes.FORMAT}")
        if announced_bytes > self._max_bytes:
            raise FileSyncError(
                f"{self._root}: {announced_bytes} bytes announced, {self._max_bytes} allowed",
                f"Free space on the file system of {self._root}.",
            )
        report.frozen = bool(frozen)
        batch = passes.read_batch(stream)
        self._check(batch)
        started = time.monotonic()
        fresh = self._roster.admit(batch)
        self._unfinished = set(batch.ids)
        self._remove(batch)
        if report.number == 1:
            adopted = adopt(self._root_fd, batch, only=self._only, layer=self._layer)
            _choose(answer, adopted)
            if adopted:
                self._files.offered = adopted.blocks
                fresh -= adopted.entries
                self._unfinished -= adopted.settled
        report.walk_seconds = time.monotonic() - started
        self._make(batch, fresh)
        self._receive_files(stream, files, announced_bytes, report)
        self._link_names()
        self._finish(fresh)
        report.entries = len(self._roster.metadata)
        report.changed, report.gone = len(batch.ids), len(batch.gone)
        missing = self._absent | self._stale | self._unlinked.keys()
        if report.frozen and missing:
            name = self._roster.path(min(missing))
            raise ProtocolError(f"{self._label}: the content of {name} never came")

    def _check(self, batch: Batch) -> None:
        """Refuse what this tree may not have in it."""
        if self._only is not None:
            for name, mode in zip(batch.names, batch.modes, strict=True):
                if name and (name != self._only or not stat.S_ISREG(mode)):
                    raise ProtocolError(f"{self._label}: {name} is not {self._only}, a file")
        if not self._layer:
            for xattrs in batch.xattrs.values():
                if not all(map(attributes.is_carried, xattrs)):
                    raise ProtocolError(f"{self._label}: is no layer of an overlay")

    def _place(self, entry: int) -> tuple[int, str]:
        """The directory's descriptor and the name of an entry."""
        return self._directories.fd(self._roster.parents[entry]), self._roster.names[entry]

    def _remove(self, batch: Batch) -> None:
        for entry in batch.gone:
            directory, name = self._place(entry)
            try:
                if stat.S_ISDIR(self._roster.metadata[entry][0]):
                    self._directories.forget(entry)
                    os.rmdir(name, dir_fd=directory)
                else:
                    os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                if entry not in self._absent and entry not in self._unlinked:
                    raise
            self._roster.drop(entry)
            self._files.forget(entry)
            for known in (self._absent, self._stale):
                known.discard(entry)
            self._unlinked.pop(entry, None)
            self._unfinished.add(self._roster.parents[entry])
        self._unfinished &= self._roster.metadata.keys()

    def _make(self, batch: Batch, fresh: set[int]) -> None:
        """Make new directories, symbolic links, devices, FIFOs and sockets."""
        for row, entry in enumerate(batch.ids):
            if entry not in fresh or entry == 0:
                continue
            mode = batch.modes[row]
            self._unfinished.add(batch.parents[row])
            if batch.links[row] != NO_LINK:
                self._unlinked[entry] = batch.links[row]
            elif stat.S_ISREG(mode):
                self._absent.add(entry)
            else:
                directory, name = self._place(entry)
                if stat.S_ISDIR(mode):
                    os.mkdir(name, 0o700, dir_fd=directory)
                elif stat.S_ISLNK(mode):
                    os.symlink(batch.targets[row], name, dir_fd=directory)
                else:
                    kind = stat.S_IFMT(mode) | 0o600
                    os.mknod(name, kind, batch.rdevs[row], dir_fd=directory)

    def _receive_files(
        self, stream: StreamReader, files: int, most: int, report: PassReport
    ) -> None:
        """Write what content comes."""
        for _ in range(files + 1):
            kind, entry = passes.FILE.unpack(stream.read_exactly(passes.FILE.size))
            if kind == FileKind.FINISHED:
                return
            metadata = self._roster.metadata.get(entry)
            if metadata is None or not stat.S_ISREG(metadata[0]):
                raise ProtocolError(f"{self._label}: content for entry {entry}, not a file")
            if kind == FileKind.GONE:
                self._stale.add(entry)
            elif kind == FileKind.SAME:
                self._files.keep(entry)
            elif kind in {FileKind.WHOLE, FileKind.PATCH}:
                left = most - report.content_bytes
                report.content_bytes += self._receive_file(
                    stream, entry, FileKind(kind), left, metadata
                )
                report.files += 1
            else:
                raise ProtocolError(f"{self._label}: {kind} is not how a file comes")
        raise ProtocolError(f"{self._label}: more files than announced")

    def _receive_file(
        self, stream: StreamReader, entry: int, kind: FileKind, most: int, metadata: Metadata
    ) -> int:
        directory, name = self._place(entry)
        is_new = entry in self._absent or entry in self._unlinked
        try:
            if is_new:
                self._unfinished.add(self._roster.parents[entry])
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(name, flags, 0o600, dir_fd=directory)
            else:
                fd = open_regular(directory, name, os.O_RDWR)
            try:
                received = self._files.receive(stream, entry, fd, kind, is_new=is_new, most=most)
                self._finish_open(fd, metadata, is_new=is_new)
            finally:
                os.close(fd)
        except OSError as error:
            error.filename = self._roster.path(entry)
            raise
        except FileSyncError as error:
            where = f"{self._root}/{self._roster.path(entry)}"
            raise FileSyncError(f"{where}: {error.message}", error.hint) from error
        self._unfinished.discard(entry)
        self._absent.discard(entry)
        self._stale.discard(entry)
        self._unlinked.pop(entry, None)
        return received

    def _link_names(self) -> None:
        """Give files their further names; those whose file is not there yet wait."""
        for entry, leader in list(self._unlinked.items()):
            if leader in self._absent or leader not in self._roster.metadata:
                continue
            directory, name = self._place(leader)
            beside, beside_name = self._place(entry)
            os.link(
                name,
                beside_name,
                src_dir_fd=directory,
                dst_dir_fd=beside,
                follow_symlinks=False,
            )
            self._unfinished.add(self._roster.parents[entry])
            del self._unlinked[entry]
            self._unfinished.discard(entry)

    def _finish(self, fresh: set[int]) -> None:
        """Set the metadata that content did not bring along, directories last."""
        directories: list[int] = []
        if self._only is not None:
            self._unfinished.discard(0)
        for entry in sorted(self._unfinished):
            metadata = self._roster.metadata[entry]
            if stat.S_ISDIR(metadata[0]):
                directories.append(entry)
            elif entry not in self._absent and entry not in self._unlinked:
                self._finish_one(entry, metadata)
        for entry in directories:
            fd = self._directories.fd(entry)
            try:
                self._finish_open(fd, self._roster.metadata[entry], is_new=entry in fresh)
            except OSError as error:
                error.filename = self._roster.path(entry)
                raise
        self._unfinished.clear()

    def _finish_one(self, entry: int, metadata: Metadata) -> None:
        directory, name = self._place(entry)
        mode, uid, gid, mtime_ns, xattrs = metadata
        try:
            if stat.S_ISREG(mode):
                fd = open_regular(directory, name, os.O_RDONLY)
                try:
                    self._finish_open(fd, metadata, is_new=False)
                finally:
                    os.close(fd)
            else:
                attributes.apply_by_name(
                    directory,
                    name,
                    mode=mode,
                    uid=uid,
                    gid=gid,
                    mtime_ns=mtime_ns,
                    xattrs=xattrs,
                    layer=self._layer,
                )
        except OSError as error:
            error.filename = self._roster.path(entry)
            raise

    def _finish_open(self, fd: int, metadata: Metadata, *, is_new: bool) -> None:
        mode, uid, gid, mtime_ns, xattrs = metadata
        attributes.apply_by_fd(
            fd,
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=mtime_ns,
            xattrs=xattrs,
            fresh=is_new,
            layer=self._layer,
        )


def _choose(answer: StreamWriter, adopted: Adopted | None) -> None:
    """Tell the source what is here already."""
    if adopted is None:
        answer.write(ANSWER.pack(AnswerKind.ALL, 0, 0))
        return
    digests = adopted.digests
    head = ANSWER.pack(AnswerKind.ROWS, len(adopted.wants), len(digests) // DIGEST_BYTES)
    answer.write(head + adopted.wants + digests)


def _tell(answer: StreamWriter, error: MigrateError) -> None:
    """Send the reason, if the link still can."""
    try:
        passes.send_outcome(answer, error)
    except LinkError:
        answer.abort(error.message)
