"""The source's side of copying memory while its processes run.

Lives here: MemoryCopy: passes over the processes, the last one, and what CRIU's own list
of pages still wants. Must not live here: how many passes (`live`), which pages were
written (`written`, `hashed`), the format (`page_batches`). May be imported by
`checkpoint` and `live`.

    pass_over()     what was written since the pass before; nothing is frozen
    pass_over()     once more when everything is frozen: then it is the last word
    complete()      what the dump lists and was never sent: memory of processes that were
                    made since, and what could not be read before

A process is watched by its kernel where that can be, else by digests of its pages: where
the kernel is older, and where devices write into its memory.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from migrate.checkpoint.direct_io import reads_directly
from migrate.checkpoint.hashed import Hashes
from migrate.checkpoint.injection import CannotInject
from migrate.checkpoint.injector import Injector
from migrate.checkpoint.mappings import Span, lazy_mappings
from migrate.checkpoint.page_batches import (
    END,
    FORGET,
    IS_ZERO,
    MOST_BYTES,
    MOST_RUNS,
    PAGES,
    Run,
    encode,
    without_zeros,
)
from migrate.checkpoint.page_set import PageSet
from migrate.checkpoint.pages import PAGE_SHIFT, StreamSummary
from migrate.checkpoint.written import Protection
from migrate.errors import KernelError
from migrate.syscalls import memory

READ_BYTES = 496 << 10  # with its head and runs, one frame of the link
_READ_RUNS = 1024  # IOV_MAX
_IOVEC = struct.Struct("@QQ")

Sink = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass did.

    Attributes:
        pages: that were found to be sent.
        sent_bytes: contents that went out, zeros not counted.
    """

    pages: int
    sent_bytes: int
    seconds: float


class _Watched:
    """One process."""

    def __init__(self, pid: int, number: int, watch: Protection | Hashes | None) -> None:
        self.pid = pid
        self.number = number
        self.watch = watch
        self.covered = PageSet()

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()


class MemoryCopy:
    """The copying of one container's memory; `close` it.

    Args:
        sink: gets the stream, in pieces it may keep.
        by_kernel: let the kernel tell what was written, where it can.

    Attributes:
        by_digests: how many processes are not watched by the kernel.
    """

    def __init__(self, sink: Sink, *, by_kernel: bool = True) -> None:
        import xxhash

        self._sink = sink
        self._by_kernel = by_kernel
        self._injector = Injector()
        self._digest = xxhash.xxh3_128()
        self._stream_bytes = 0
        self._page_bytes = 0
        self._watched: dict[int, _Watched] = {}
        self.by_digests = 0

    def pass_over(self, processes: Iterable[tuple[int, int]], *, frozen: bool = False) -> Pass:
        """Send what was written since the last pass.

        Args:
            processes: pid here, and number inside the container, of every process.
            frozen: they do not run, and will not again before `complete`.
        """
        began, sent, pages = time.monotonic(), self._page_bytes, 0
        now = dict(processes)
        # A pid that was used again is another process's inside, too.
        for pid in [pid for pid, each in self._watched.items() if now.get(pid) != each.number]:
            self._forget(pid)
        for pid, number in now.items():
            pages += self._pass_over_one(pid, number, frozen=frozen)
        return Pass(
            pages=pages,
            sent_bytes=self._page_bytes - sent,
            seconds=time.monotonic() - began,
        )

    def complete(self, wanted: Iterable[tuple[int, int, Sequence[Span]]]) -> StreamSummary:
        """Send what was never sent, and end the stream.

        Args:
            wanted: pid, number inside, and the spans that the dump lists.

        Raises:
            KernelError: a page cannot be read.
        """
        for pid, number, spans in wanted:
            each = self._watched.get(pid)
            if each is None:
                each = self._watched[pid] = _Watched(pid, number, None)
            missing = [left for span in spans for left in each.covered.missing(*span)]
            for runs, contents in read_pages(pid, missing):
                self._send(each, runs, contents)
            for span in missing:
                for start, _ in each.covered.missing(*span):
                    raise KernelError("process_vm_readv", f"{pid} at {start:#x}", errno.EFAULT)
        self._emit(encode(END, 0), [])
        return StreamSummary(
            self._stream_bytes, self._page_bytes, self._digest.hexdigest(), complete=True
        )

    def close(self) -> None:
        """Stop watching; may be called again."""
        for each in self._watched.values():
            each.close()
        self._watched = {}
        self._injector.close()

    def _forget(self, pid: int) -> None:
        """Let go of a process that has ended, or has other memory."""
        each = self._watched.pop(pid)
        each.close()
        self._emit(encode(FORGET, each.number), [])

    def _pass_over_one(self, pid: int, number: int, *, frozen: bool) -> int:
        """Send what one process has written; return how many pages that were."""
        try:
            each, by_kernel = self._watched.get(pid), self._by_kernel
            if each is not None:
                try:
                    return self._send_written(each, frozen=frozen)
                except KernelError:
                    self._forget(pid)  # it has called execve(2)
                except CannotInject:
                    self._forget(pid)
                    by_kernel = False
            if frozen:
                return 0  # `complete` sends all of it
            return self._begin(pid, number, by_kernel=by_kernel)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                raise
            return 0  # it has ended, and will not be in the next list

    def _begin(self, pid: int, number: int, *, by_kernel: bool) -> int:
        """Watch a process that runs, and send all that it has; return how many pages."""
        if by_kernel and not reads_directly(pid):
            try:
                watch = Protection(pid, self._injector.open_userfaultfd)
                self._watched[pid] = _Watched(pid, number, watch)
                return self._send_written(self._watched[pid])
            except (CannotInject, KernelError):
                if pid in self._watched:
                    self._forget(pid)
        self.by_digests += 1
        self._watched[pid] = _Watched(pid, number, Hashes(pid))
        return self._send_written(self._watched[pid])

    def _send_written(self, each: _Watched, *, frozen: bool = False) -> int:
        if each.watch is None:
            raise AssertionError("not watched")
        spans = each.watch.written()
        # At once: what a device was writing while pages were protected is perhaps not
        # noted, and the file may be closed before they are sent. Who is frozen waits for none.
        if not frozen and isinstance(each.watch, Protection) and reads_directly(each.pid):
            raise CannotInject(f"process {each.pid}: devices write into its memory")
        if not frozen:
            self._take_back(each)
        for runs, contents in read_pages(each.pid, spans, partial(self._lose, each)):
            if isinstance(each.watch, Hashes):
                changed, kept = each.watch.changed(runs, contents)
                if changed:
                    self._send(each, changed, memoryview(b"".join(kept)))
                self._cover(each, runs)
            else:
                self._send(each, runs, contents)
        return sum(end - start for start, end in spans) >> PAGE_SHIFT

    def _take_back(self, each: _Watched) -> None:
        """Take back what is not mapped any more: it would pile up in memory over there."""
        for start, end in list(each.covered.outside(lazy_mappings(each.pid))):
            for at in range(start, end, MOST_BYTES):
                self._lose(each, at, min(at + MOST_BYTES, end))

    def _lose(self, each: _Watched, start: int, end: int) -> None:
        """Take back what is not there any more: what is not covered is zeros over there."""
        if any(each.covered.within(start, end)):
            run = (start | IS_ZERO, (end - start) >> PAGE_SHIFT)
            self._emit(encode(PAGES, each.number, [run]), [])
            each.covered.discard(start, end)
            if isinstance(each.watch, Hashes):
                each.watch.forget(start, end)

    def _cover(self, each: _Watched, runs: Sequence[Run]) -> None:
        for address, pages in runs:
            each.covered.add(address, address + (pages << PAGE_SHIFT))

    def _send(self, each: _Watched, runs: Sequence[Run], contents: memoryview) -> None:
        """Send pages; those of zeros only where something was sent before."""
        marked, kept = without_zeros(runs, contents)
        needed: list[Run] = []
        for address, pages in marked:
            if address & IS_ZERO:
                start = address & ~IS_ZERO
                stale = each.covered.within(start, start + (pages << PAGE_SHIFT))
                needed += [(a | IS_ZERO, (b - a) >> PAGE_SHIFT) for a, b in stale]
            else:
                needed.append((address, pages))
        self._cover(each, runs)
        if len(needed) > MOST_RUNS:
            raise AssertionError("more runs than were read")
        if needed:
            self._emit(encode(PAGES, each.number, needed), kept)

    def _emit(self, head: bytes, contents: Sequence[memoryview]) -> None:
        batch = memoryview(b"".join((head, *contents)))
        self._digest.update(batch)
        self._stream_bytes += len(batch)
        self._page_bytes += len(batch) - len(head)
        self._sink(batch)


def read_pages(
    pid: int, spans: Sequence[Span], unreadable: Callable[[int, int], None] | None = None
) -> Iterator[tuple[list[Run], memoryview]]:
    """Yield pages of a process, as runs and their contents; each is gone with the next.

    Args:
        unreadable: told of pages that are not there any more.
    """
    buffer = bytearray(READ_BYTES)
    for places in _pieces(spans):
        waiting = places
        while waiting:
            size = sum(length for _, length in waiting)
            count = _read_some(pid, buffer, waiting)
            runs: list[Run] = []
            done = 0
            for index, (address, length) in enumerate(waiting):
                whole = min(length, count - done) & -(1 << PAGE_SHIFT)
                if whole:
                    runs.append((address, whole >> PAGE_SHIFT))
                    done += whole
                if whole < length:
                    rest = [(address + whole, length - whole), *waiting[index + 1 :]]
                    break
            else:
                rest = []
            if runs:
                with memoryview(buffer) as view:
                    yield runs, view[:done]
            if count < size and rest:
                # The first page of the rest cannot be read in this way.
                address, length = rest[0]
                page = _read_forced(pid, address)
                if page is not None:
                    yield [(address, 1)], memoryview(page)
                elif unreadable is not None:
                    unreadable(address, address + (1 << PAGE_SHIFT))
                step = 1 << PAGE_SHIFT
                rest = [(address + step, length - step), *rest[1:]][length == step :]
            waiting = rest


def _pieces(spans: Sequence[Span]) -> Iterator[list[tuple[int, int]]]:
    """Yield addresses and sizes, as many as one read takes."""
    places: list[tuple[int, int]] = []
    room = READ_BYTES
    for start, end in spans:
        address = start
        while address < end:
            size = min(end - address, room)
            places.append((address, size))
            address += size
            room -= size
            if not room or len(places) == _READ_RUNS:
                yield places
                places, room = [], READ_BYTES
    if places:
        yield places


def _read_some(pid: int, buffer: bytearray, places: Sequence[tuple[int, int]]) -> int:
    """Read as far as it goes; return how many bytes."""
    remote = b"".join(_IOVEC.pack(*place) for place in places)
    size = sum(length for _, length in places)
    try:
        return memory.process_vm_readv(pid, buffer, size, remote)
    except KernelError as error:
        if error.errno == errno.EFAULT:
            return 0
        if error.errno == errno.ESRCH:
            raise ProcessLookupError(errno.ESRCH, "it has ended") from error
        raise


def _read_forced(pid: int, address: int) -> bytes | None:
    """Return one page that may not be read by the process itself, None where it is gone."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        try:
            page = os.pread(file.fileno(), 1 << PAGE_SHIFT, address)
        except OSError:
            return None
    return page if len(page) == 1 << PAGE_SHIFT else None
