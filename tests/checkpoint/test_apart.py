"""`checkpoint.apart`: memory that is written into held processes, and what is left to CRIU."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint import apart
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.page_store import PageStore, Stored
from migrate.checkpoint.pages import (
    FLAGS_SHIFT,
    PE_LAZY,
    PE_PARENT,
    PE_PRESENT,
    PS_IOV_ADD_F,
    PS_IOV_FORCE_CLOSE,
    PS_IOV_OPEN2,
    RECORD,
)
from migrate.checkpoint.reserve import SMALLEST_BYTES
from migrate.errors import CriuError

PAGE = 4096
HEAP = 0x10000000
SIZE = 20 << 20
# PROT_READ, PROT_WRITE; MAP_PRIVATE, MAP_ANONYMOUS
WRITABLE, PRIVATE = 3, 0x22
ANONYMOUS = 1 << 0 | 1 << 9

Piece = tuple[int, int, int, int]


# --- which memory ---

runs = st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from([PE_PRESENT, PE_PARENT, PE_LAZY]), st.integers(1, 9)
    ),
    max_size=20,
)
gaps = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), max_size=8)


def laid_out(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in rising order from gaps and lengths, in pages."""
    found, at = [], 0
    for gap, length in pairs:
        found.append(((at + gap) * PAGE, (at + gap + length) * PAGE))
        at += gap + length
    return found


@given(runs, gaps)
def test_every_page_goes_one_way_and_keeps_its_place_in_the_file(
    given_runs: list[tuple[int, int, int]], pairs: list[tuple[int, int]]
) -> None:
    stored = Stored(1, "pagemap-1.img", "pages-1.img", 1)
    spans = laid_out(pairs)
    expected: dict[int, tuple[int, int]] = {}  # address: flags, place in the file
    at = place = 0
    for gap, flags, pages in given_runs:
        at += gap
        stored.add(at * PAGE, flags, pages)
        for _ in range(pages):
            expected[at * PAGE] = (flags, place)
            place += PAGE if flags & PE_PRESENT else 0
            at += 1
    taken: list[tuple[int, int, int]] = []
    left = list(apart._sorted_out(stored, spans, taken))
    seen: dict[int, tuple[int, int]] = {}
    for address, flags, offset, size in left:
        for step in range(0, size, PAGE):
            moved = step if flags & PE_PRESENT else 0
            seen[address + step] = (flags, offset + moved)
    for address, offset, size in taken:
        assert any(start <= address and address + size <= end for start, end in spans)
        for step in range(0, size, PAGE):
            assert address + step not in seen
            seen[address + step] = (PE_PRESENT, offset + step)
    assert seen == expected
    for address, flags, _, _ in left:
        inside = any(start <= address < end for start, end in spans)
        assert not (inside and flags & PE_PRESENT)


@given(gaps, st.integers(0, 3))
def test_batches_bring_every_byte_once_and_are_never_larger_than_the_kernel_takes(
    pairs: list[tuple[int, int]], jumps: int
) -> None:
    offset, given_runs = 0, []
    for number, (start, end) in enumerate(laid_out(pairs)):
        offset += PAGE if jumps and number % (jumps + 1) == 0 else 0
        size = (end - start) * 37
        given_runs.append((start * 64, offset, size))
        offset += size
    seen = []
    for first, spans in apart._batches(given_runs):
        begin = first
        assert 0 < sum(size for _, size in spans) <= apart._BATCH_BYTES
        assert len(spans) <= apart._BATCH_RUNS
        for address, size in spans:
            seen += [(address + step, begin + step) for step in range(0, size, PAGE)]
            begin += size
    expected = [
        (address + step, offset + step)
        for address, offset, size in given_runs
        for step in range(0, size, PAGE)
    ]
    assert seen == expected


# --- images ---


def mapping(start: int, size: int, **changed: int) -> dict[str, int]:
    """Return a mapping as CRIU's image has it."""
    usual = {
        "start": start,
        "end": start + size,
        "pgoff": 0,
        "shmid": 0,
        "prot": WRITABLE,
        "flags": PRIVATE,
        "status": ANONYMOUS,
        "fd": -1,
    }
    return {**usual, **changed}


def mm_image(*mappings: dict[str, int]) -> bytes:
    """Return a mm image; the fields that nobody reads are zero."""
    message = apart.preload()
    numbers = {field.name: 0 for field in message.DESCRIPTOR.fields if field.is_required}
    image = message(**numbers)
    for each in mappings:
        image.vmas.add(**each)
    encoded: bytes = image.SerializeToString()
    return struct.pack("<III", 1, 2, len(encoded)) + encoded


class Images:
    """An image directory, filled as a memory stream fills it."""

    def __init__(self, path: str) -> None:
        self.directory = ImageDirectory(path, create=True)
        self.store = PageStore(self.directory.descriptor)

    def add(self, process: int, content: bytes, *mappings: dict[str, int]) -> None:
        """Add a process whose pages begin with its first mapping."""
        self.store.feed(
            RECORD.pack(PS_IOV_OPEN2, 0, 0, process << 8 | 1)
            + RECORD.pack(
                PS_IOV_ADD_F | PE_PRESENT << FLAGS_SHIFT,
                len(content) // PAGE,
                mappings[0]["start"],
                process << 8 | 1,
            )
            + content
        )
        self.directory.write(f"mm-{process}.img", mm_image(*mappings))

    def set_apart(self) -> list[apart.Part]:
        """End the stream, and take out what goes."""
        self.store.feed(RECORD.pack(PS_IOV_FORCE_CLOSE, 0, 0, 0))
        self.store.finish()
        return apart.set_apart(self.directory, self.store.images, apart.preload())


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    """An empty one."""
    made = Images(str(tmp_path / "images"))
    with made.directory:
        yield made


def content(size: int = SIZE, seed: int = 1) -> bytes:
    """Return bytes of which no two pages are alike."""
    return random.Random(seed).randbytes(size)


def test_large_private_memory_leaves_the_images_and_the_rest_stays(images: Images) -> None:
    whole = content(SIZE + 3 * PAGE)
    images.add(
        7, whole, mapping(HEAP, SIZE), mapping(HEAP + SIZE, 3 * PAGE, prot=1), mapping(0, PAGE)
    )
    (part,) = images.set_apart()
    assert (part.process, part.runs) == (7, [(HEAP, 0, SIZE)])
    assert os.pread(part.descriptor, SIZE, 0) == whole[:SIZE]
    part.close()
    names = images.directory.names()
    (pages,) = [name for name in names if name.startswith("pages-")]
    assert images.directory.read(pages) == whole[SIZE:]
    pagemap = images.directory.read("pagemap-7.img")
    assert apart._HEAD.unpack_from(pagemap)[2] > 0
    assert pages != "pages-65537.img"


@pytest.mark.parametrize(
    "changed",
    [
        {"prot": 1},
        {"flags": PRIVATE | 0x100},
        {"flags": PRIVATE | 0x2000},
        {"flags": PRIVATE | 0x40000},
        {"flags": 0x21, "status": 1 << 0 | 1 << 8},
        {"status": 1 << 0 | 1 << 6},
        {"status": ANONYMOUS | 1 << 1},
        {"status": ANONYMOUS | 1 << 3},
    ],
    ids=["read-only", "stack", "locked", "huge", "shared", "file", "stack-status", "vdso"],
)
def test_what_criu_does_more_with_than_read_stays_its(
    images: Images, changed: dict[str, int]
) -> None:
    images.add(7, content(), mapping(HEAP, SIZE, **changed))
    before = images.directory.names()
    assert images.set_apart() == []
    assert images.directory.names() == sorted({*before, "pagemap-7.img"})


def test_memory_that_a_child_has_from_its_parent_stays_shared_until_written(
    images: Images,
) -> None:
    for process in (7, 8):
        own = mapping(HEAP + process * (SIZE * 2), SIZE)
        images.add(process, content(2 * SIZE, process), {**own}, mapping(HEAP, SIZE))
    parts = images.set_apart()
    assert [(part.process, part.size) for part in parts] == [(7, SIZE), (8, SIZE)]
    for part in parts:
        part.close()


def test_memory_at_one_address_in_two_processes_stays_criu_s(images: Images) -> None:
    for process in (7, 8):
        images.add(process, content(SIZE, process), mapping(HEAP, SIZE))
    assert images.set_apart() == []


def test_little_memory_is_not_worth_it(images: Images) -> None:
    images.add(7, content(SMALLEST_BYTES - PAGE), mapping(HEAP, SIZE))
    assert images.set_apart() == []


# --- into processes ---

HOLDER = """
import mmap, signal, sys
memory = mmap.mmap(-1, int(sys.argv[1]), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
import ctypes
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
signal.sigwait({signal.SIGUSR1})
sys.stdout.buffer.write(memory)
"""


class Holder:
    """A process with empty memory, which says at the end what is in it."""

    def __init__(self, size: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(size)], stdout=subprocess.PIPE
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        assert self.process.stdout is not None
        self.address = int(self.process.stdout.readline())

    def part(self, held: bytes) -> apart.Part:
        """Return memory of this process, in a file."""
        descriptor = os.memfd_create("part")
        view = memoryview(held)
        while view:
            view = view[os.write(descriptor, view) :]
        runs = [(self.address, 0, len(held))]
        return apart.Part(self.process.pid, descriptor, runs)

    def read(self) -> bytes:
        """Return what its memory holds; it ends."""
        self.process.send_signal(signal.SIGUSR1)
        return self.process.communicate()[0]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """One of SIZE bytes."""
    made = Holder(SIZE)
    with made.process:
        yield made
        made.process.kill()


def test_memory_arrives_where_it_belongs_and_its_file_is_given_back(holder: Holder) -> None:
    expected = content()
    part = holder.part(expected)
    apart.fill([part], holder.process.pid)
    assert os.fstat(part.descriptor).st_blocks == 0
    part.close()
    assert holder.read() == expected


def test_runs_with_holes_between_them_leave_the_holes_alone(holder: Holder) -> None:
    held = content(2048 * PAGE)
    part = holder.part(held)
    part.runs = [
        (holder.address + 2 * number * PAGE, number * PAGE, PAGE) for number in range(2048)
    ]
    apart.fill([part], holder.process.pid)
    part.close()
    found = holder.read()
    for number in range(2048):
        at = 2 * number * PAGE
        assert found[at : at + PAGE] == held[number * PAGE : (number + 1) * PAGE]
        assert found[at + PAGE : at + 2 * PAGE] == bytes(PAGE)


def test_a_thread_that_dies_of_anything_is_an_error(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = holder.part(content(8 << 20))
    move = apart._move
    calls = []

    def short_of_memory(*arguments: Any) -> str:
        calls.append(threading.current_thread())
        if len(calls) == 3:
            raise MemoryError
        return move(*arguments)

    monkeypatch.setattr(apart, "_move", short_of_memory)
    with pytest.raises(MemoryError):
        apart.fill([part], holder.process.pid)
    part.close()


def changed_address(part: apart.Part) -> None:
    part.runs = [(PAGE, 0, part.runs[0][2])]


def longer(part: apart.Part) -> None:
    part.runs = [(part.runs[0][0], 0, part.runs[0][2] + mmap.PAGESIZE)]


def another(part: apart.Part) -> None:
    part.process += 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (changed_address, "does not take|[Bb]ad address"),
        (longer, "shorter than its list"),
        (another, "restored no process"),
    ],
)
def test_a_process_that_cannot_be_filled_is_an_error(
    holder: Holder, damage: Any, said: str
) -> None:
    part = holder.part(content(2 << 20))
    damage(part)
    with pytest.raises(CriuError, match=said):
        apart.fill([part], holder.process.pid)
    part.close()
