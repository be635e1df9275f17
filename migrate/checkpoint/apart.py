"""Memory that does not go through CRIU's restore: written into the held processes.

Lives here: which memory that is, and how it gets to its place. Must not live here: the
stream it came by (`page_store`, `address_store`), when (`live.incoming`). May be imported
by `checkpoint` and `live`.

CRIU reads a process's pages from a file into memory, and the file stays: twice the
memory, and in a virtual machine, whose host has to find it, most of the time a container
stands still. So the large private memory is taken out of the images. CRIU restores it
empty, and once it holds the processes they get it from us, piece by piece; each piece's
place in the file is given back at once, so that the next one goes to memory that was in
use a moment ago.

Left to CRIU is what it does more with than read: shared and locked memory, huge pages,
stacks, what may not be written, and what a process shares with its parent until one of
them writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from migrate import syscalls
from migrate.checkpoint import procfs
from migrate.checkpoint.address_store import AddressStore
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.left_out import lists_of_pages
from migrate.checkpoint.page_store import Stored, write_pagemap
from migrate.checkpoint.pages import PAGE_SHIFT, PE_LAZY, PE_PRESENT
from migrate.checkpoint.reserve import SMALLEST_BYTES
from migrate.errors import CriuError, KernelError

_BATCH_BYTES = 2 << 20  # a large page of the file, which is given back whole
_BATCH_RUNS = 1024  # IOV_MAX
_MOST_THREADS = 4
_HEAD = struct.Struct("<III")  # two magics, and the size of the one message
_IOVEC = struct.Struct("@QQ")
_PROT_WRITE = 2
_MAP_PRIVATE, _MAP_GROWSDOWN, _MAP_LOCKED, _MAP_HUGETLB = 0x2, 0x100, 0x2000, 0x40000
# criu/include/image.h: VMA_AREA_REGULAR with VMA_ANON_PRIVATE, and maybe VMA_AREA_HEAP.
_REGULAR, _HEAP, _ANON_PRIVATE = 1 << 0, 1 << 5, 1 << 9

Span = tuple[int, int]


@dataclass(slots=True)
class Part:
    """What of one process's memory is kept apart; `close` it.

    Attributes:
        process: its number inside the container.
        descriptor: the file it lies in.
        runs: address, offset in the file, size; all in bytes, in the file's order.
    """

    process: int
    descriptor: int
    runs: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many bytes."""
        return sum(run[2] for run in self.runs)

    def close(self) -> None:
        """Give its memory back."""
        os.close(self.descriptor)


def preload() -> type[Any]:
    """Return the message class, loaded before anything is frozen."""
    from pycriu.images import mm_pb2

    message: type[Any] = mm_pb2.mm_entry
    return message


def set_apart(images: ImageDirectory, stored: Sequence[Stored], message: type[Any]) -> list[Part]:
    """Take the large private memory out of images that CRIU has not read yet.

    Args:
        images: verified, with a mm image for each process.
        stored: what the memory stream has brought.
        message: what `preload` returned.

    Returns:
        What was taken out; the caller closes it.
    """
    spans = {
        each.process: _eligible(images.read(f"mm-{each.process}.img"), message)
        for each in stored
        if each.process is not None and each.page_bytes >= SMALLEST_BYTES
    }
    # Two processes with memory at one address: the one has it from the other, unwritten.
    starts = Counter(start for each in spans.values() for start, _ in each)
    parts: list[Part] = []
    try:
        for each in stored:
            if each.process in spans:
                own = [span for span in spans[each.process] if starts[span[0]] == 1]
                part = _split(images, each, own)
                if part is not None:
                    parts.append(part)
    except BaseException:
        for part in parts:
            part.close()
        raise
    return parts


def take_left_out(images: ImageDirectory, store: AddressStore, messages: Any) -> list[Part]:
    """Return the memory that the dump has left out, and make CRIU restore it empty.

    Args:
        images: verified; CRIU has not read them yet.
        store: where that memory is.
        messages: what `left_out.preload` returned.

    Returns:
        The caller closes it.
    """
    parts: list[Part] = []
    try:
        for process, pages_id, entries in list(lists_of_pages(images, messages)):
            spans = [span for span, flags in entries if flags & PE_LAZY]
            if not spans:
                continue
            runs = [(start, start, end - start) for start, end in spans]
            parts.append(Part(process, os.dup(store.file_of(process)), runs))
            name = f"pagemap-{process}.img"
            os.unlink(name, dir_fd=images.descriptor)
            left = (
                (start, flags, (end - start) >> PAGE_SHIFT)
                for (start, end), flags in entries
                if not flags & PE_LAZY
            )
            write_pagemap(images.descriptor, name, pages_id, left)
    except BaseException:
        for part in parts:
            part.close()
        raise
    return parts


def _eligible(content: bytes, message: type[Any]) -> list[Span]:
    """Return the mappings of a process that can be restored empty."""
    size = _HEAD.unpack_from(content)[2]
    mm = message.FromString(content[_HEAD.size : _HEAD.size + size])
    never = _MAP_GROWSDOWN | _MAP_LOCKED | _MAP_HUGETLB
    return sorted(
        (vma.start, vma.end)
        for vma in mm.vmas
        if vma.status & ~_HEAP == _REGULAR | _ANON_PRIVATE
        and vma.prot & _PROT_WRITE
        and vma.flags & _MAP_PRIVATE
        and not vma.flags & never
    )


def _split(images: ImageDirectory, stored: Stored, spans: list[Span]) -> Part | None:
    """Leave CRIU the rest of a process's pages, in files of their own."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    part = Part(stored.process or 0, os.open(stored.pages_name, flags, dir_fd=images.descriptor))
    try:
        left = list(_sorted_out(stored, spans, part.runs))
        if part.size < SMALLEST_BYTES:
            part.close()
            return None
        pages_id = stored.pages_id + (1 << 16)  # no other image has such a number
        os.unlink(stored.pages_name, dir_fd=images.descriptor)
        os.unlink(stored.pagemap_name, dir_fd=images.descriptor)
        write_pagemap(
            images.descriptor,
            stored.pagemap_name,
            pages_id,
            ((address, kind, size >> PAGE_SHIFT) for address, kind, _, size in left),
        )
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        to = os.open(f"pages-{pages_id}.img", create, 0o600, dir_fd=images.descriptor)
        try:
            for _, kind, offset, size in left:
                if kind & PE_PRESENT:
                    _copy(part.descriptor, offset, size, to)
        finally:
            os.close(to)
    except BaseException:
        part.close()
        raise
    return part


def _sorted_out(
    stored: Stored, spans: list[Span], taken: list[tuple[int, int, int]]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield what stays CRIU's as (address, flags, offset, size); append the rest to taken."""
    starts = [start for start, _ in spans]
    offset = 0
    for first, flags, pages in stored.entries():
        address, size = first, pages << PAGE_SHIFT
        if not flags & PE_PRESENT:
            yield address, flags, offset, size
            continue
        while size:
            at = bisect_right(starts, address) - 1
            inside = at >= 0 and address < spans[at][1]
            if inside:
                end = spans[at][1]
            else:
                end = starts[at + 1] if at + 1 < len(starts) else address + size
            piece = min(size, end - address)
            if inside:
                taken.append((address, offset, piece))
            else:
                yield address, flags, offset, piece
            address, offset, size = address + piece, offset + piece, size - piece


def _copy(source: int, offset: int, size: int, to: int) -> None:
    """Append a piece of one file to another."""
    while size:
        sent = os.sendfile(to, source, offset, size)
        if not sent:
            raise CriuError("memory image is shorter than its list of pages")
        offset, size = offset + sent, size - sent


def fill(parts: Sequence[Part], first_pid: int) -> None:
    """Write what was set apart into the restored processes, which must not run yet.

    Args:
        parts: of `set_apart`; their files are empty afterwards.
        first_pid: the container's first process, as seen here.

    Raises:
        CriuError: a process is not there, or does not take its memory.
    """
    if not parts:
        return
    pids = procfs.descendants(first_pid)
    for part in parts:
        if part.process not in pids:
            raise CriuError(f"criu restored no process {part.process}, whose memory is here")
    work = ((part, pids[part.process], batch) for part in parts for batch in _batches(part.runs))
    filler = _Filler(work)
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(len(os.sched_getaffinity(0)), _MOST_THREADS) - 1):
            thread = threading.Thread(target=filler.run, name="fill", daemon=True)
            thread.start()
            threads.append(thread)
        filler.run()
    except BaseException as error:
        filler.error = filler.error or error  # the others stop, before the files are closed
        raise
    finally:
        for thread in threads:
            thread.join()
    if filler.error is not None:
        raise filler.error
    if filler.written != sum(part.size for part in parts):
        raise CriuError("not all memory was written into the restored processes")


def _batches(runs: list[tuple[int, int, int]]) -> Iterator[tuple[int, list[Span]]]:
    """Yield an offset in the file, and addresses and sizes that follow one another there."""
    begin, end, limit, spans = 0, -1, 0, list[Span]()
    for run in runs:
        address, offset, size = run
        while size:
            if spans and (offset != end or end == limit or len(spans) >= _BATCH_RUNS):
                yield begin, spans
                spans = []
            if not spans:
                begin = offset
                limit = offset - offset % _BATCH_BYTES + _BATCH_BYTES
            piece = min(size, limit - offset)
            spans.append((address, piece))
            address, offset, size = address + piece, offset + piece, size - piece
            end = offset
    if spans:
        yield begin, spans


class _Filler:
    """Takes batches, in as many threads as call `run`."""

    def __init__(self, work: Iterator[tuple[Part, int, tuple[int, list[Span]]]]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.written = 0

    def run(self) -> None:
        """Write batches until there are none, or one fails, however."""
        try:
            self._write_all()
        except BaseException as error:  # noqa: BLE001 - raised by who began the threads
            self.error = self.error or error

    def _write_all(self) -> None:
        buffer = bytearray(_BATCH_BYTES)
        with memoryview(buffer) as view:
            while True:
                with self._lock:
                    item = None if self.error is not None else next(self._work, None)
                if item is None:
                    return
                part, pid, (offset, spans) = item
                size = sum(each[1] for each in spans)
                problem = _move(part.descriptor, offset, view[:size], buffer, pid, spans)
                if problem:
                    raise CriuError(f"memory of process {part.process}: {problem}")
                with self._lock:
                    self.written += size


def _move(
    descriptor: int,
    offset: int,
    view: memoryview,
    buffer: bytearray,
    pid: int,
    spans: list[Span],
) -> str:
    """Write one batch and give its place in the file back; return what went wrong."""
    size = len(view)
    try:
        if os.preadv(descriptor, [view], offset) != size:
            return "its image is shorter than its list of pages"
        remote = b"".join(_IOVEC.pack(address, length) for address, length in spans)
        try:
            written = syscalls.process_vm_writev(pid, buffer, size, remote)
        except KernelError as error:
            if error.errno != errno.EFAULT:
                raise
            written = 0
        if written != size and not _write_forced(pid, view, spans):
            return f"it does not take the {size} bytes at {spans[0][0]:#x}"
    except (OSError, KernelError) as error:
        return str(error.strerror if isinstance(error, OSError) else error.message)
    with contextlib.suppress(KernelError):  # it is there; its place would only be of use
        syscalls.fallocate(descriptor, syscalls.FALLOC_FL_PUNCH_HOLE, offset, size)
    return ""


def _write_forced(pid: int, view: memoryview, spans: list[Span]) -> bool:
    """Write where the process itself may not write; return whether there is memory."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as file:
        at = 0
        for address, length in spans:
            done = 0
            while done < length:
                try:
                    done += os.pwrite(file.fileno(), view[at + done : at + length], address + done)
                except OSError as error:
                    if error.errno not in (errno.EIO, errno.EFAULT):
                        raise
                    return False
            at += length
    return True
