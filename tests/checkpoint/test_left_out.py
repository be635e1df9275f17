"""Memory that a dump has left out: its list, and its way into restored processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint import apart, left_out, procfs
from migrate.checkpoint.address_store import AddressStore
from migrate.checkpoint.apart import Part
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.page_batches import PAGES, encode
from migrate.checkpoint.page_store import write_pagemap
from migrate.checkpoint.pages import PE_LAZY, PE_PARENT, PE_PRESENT
from migrate.errors import CriuError, ImageError
from tests.checkpoint.conftest import compiled, eventually
from tests.checkpoint.scribbling import NOTHING, PAGE, READ, Scribbler, memory_of, stop

pytestmark = pytest.mark.root
# Address in pages, flags, pages.
ENTRIES = [
    (16, PE_LAZY, 3),
    (32, PE_PRESENT, 2),
    (40, PE_LAZY | PE_PRESENT, 1),
    (41, PE_PARENT, 4),
    (1 << 34, PE_LAZY, 1 << 20),
]


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageDirectory]:
    with ImageDirectory(str(tmp_path / "images"), create=True) as made:
        yield made


def put(images: ImageDirectory, process: int, entries: list[tuple[int, int, int]]) -> None:
    """Write a process's list of pages as CRIU does."""
    given = ((first * PAGE, flags, pages) for first, flags, pages in entries)
    write_pagemap(images.descriptor, f"pagemap-{process}.img", 10 + process, given)


def listed(images: ImageDirectory) -> dict[int, tuple[int, list[tuple[int, int, int]]]]:
    """Return the lists as they are now."""
    return {
        process: (
            pages_id,
            [(start // PAGE, flags, (end - start) // PAGE) for (start, end), flags in entries],
        )
        for process, pages_id, entries in left_out.lists_of_pages(images, left_out.preload())
    }


def test_lists_are_read_as_they_were_written(images: ImageDirectory) -> None:
    put(images, 1, ENTRIES)
    put(images, 7, [])
    images.write("pagemap-shmem-3.img", b"another kind")
    assert listed(images) == {1: (11, ENTRIES), 7: (17, [])}


def test_a_damaged_list_is_an_error_of_the_image(images: ImageDirectory) -> None:
    put(images, 1, ENTRIES)
    whole = images.read("pagemap-1.img")
    for size in range(8, len(whole)):
        os.unlink("pagemap-1.img", dir_fd=images.descriptor)
        images.write("pagemap-1.img", whole[:size])
        try:
            (found,) = listed(images).values()
        except ImageError as error:
            assert "pagemap-1.img is damaged" in error.message  # noqa: PT017 - or a whole entry
        else:
            assert found[1] == ENTRIES[: len(found[1])]


def test_what_was_left_out_is_taken_from_the_store_and_the_rest_is_criu_s(
    images: ImageDirectory,
) -> None:
    put(images, 1, ENTRIES)
    put(images, 2, [(50, PE_PRESENT, 2)])
    with AddressStore("/run") as store:
        store.feed(encode(PAGES, 1, [(17 * PAGE, 1)]) + b"x" * PAGE)
        parts = apart.take_left_out(images, store, left_out.preload())
        (part,) = parts
        assert part.process == 1
        assert [(address // PAGE, size // PAGE) for address, _, size in part.runs] == [
            (first, pages) for first, flags, pages in ENTRIES if flags & PE_LAZY
        ]
        store.close()  # a part is its own
        contents = [os.pread(part.descriptor, PAGE, offset + PAGE) for _, offset, _ in part.runs]
        assert contents[0] == b"x" * PAGE
        part.close()
    left = [entry for entry in ENTRIES if not entry[1] & PE_LAZY]
    assert listed(images) == {1: (11, left), 2: (12, [(50, PE_PRESENT, 2)])}


# --- into processes ---


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("scribbler"), "scribbler")


@pytest.fixture
def scribbler(program: Path) -> Iterator[Scribbler]:
    with Scribbler(program) as made:
        yield made


def part_of(scribbler: Scribbler, address: int, content: bytes) -> Part:
    file = os.memfd_create("part")
    os.truncate(file, 1 << 47)
    os.pwrite(file, content, address)
    return Part(procfs.numbers(scribbler.pid)[-1], file, [(address, address, len(content))])


@pytest.mark.parametrize("prot", [NOTHING, READ, 3])
def test_memory_that_the_process_may_not_write_is_filled_too(
    scribbler: Scribbler, prot: int
) -> None:
    area = scribbler.map(600, prot=prot)
    content = os.urandom(600 * PAGE)
    part = part_of(scribbler, area, content)
    apart.fill([part], scribbler.pid)
    part.close()
    stop(scribbler.pid)
    found = memory_of(scribbler.pid)
    assert b"".join(found[area + at * PAGE] for at in range(600)) == content


def test_memory_that_is_not_there_is_an_error(scribbler: Scribbler) -> None:
    area = scribbler.map(600)
    scribbler.do("unmap", area + 300 * PAGE, 300)
    part = part_of(scribbler, area, os.urandom(600 * PAGE))
    with pytest.raises(CriuError, match="does not take"):
        apart.fill([part], scribbler.pid)
    part.close()


# --- the numbers of processes ---


def test_processes_are_known_by_their_numbers_inside() -> None:
    script = "sleep 100 & unshare --pid --fork --kill-child sleep 101 & wait"
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with subprocess.Popen(command) as outer:
        try:
            eventually(lambda: len(procfs.tree(outer.pid)) == 5, "all of them run")
            first = procfs.children(outer.pid)[0]
            found = procfs.descendants(first)
            assert found[1] == first
            assert sorted(found) == [1, 2, 3, 4]
            assert sorted(found.values()) == sorted(procfs.tree(first))
            levels = len(procfs.numbers(first))
            assert procfs.numbers(outer.pid) == procfs.numbers(outer.pid)[: levels - 1]
            deepest = procfs.numbers(found[4])
            assert (len(deepest), deepest[-1]) == (levels + 1, 1)
        finally:
            os.kill(first, 9)
            outer.wait()
    assert procfs.numbers(first) == []
