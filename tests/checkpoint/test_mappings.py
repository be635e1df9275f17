"""Which memory of a process can follow it page by page, and what of that is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.mappings import amounts, lazy_mappings, pages_there
from tests.checkpoint.conftest import compiled
from tests.checkpoint.scribbling import NOTHING, PAGE, READ, Scribbler, memory_of, stop

pytestmark = pytest.mark.root
PAGES = 700
MAP_SHARED = 0x1


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("scribbler"), "scribbler")


@pytest.fixture
def scribbler(program: Path) -> Iterator[Scribbler]:
    with Scribbler(program) as made:
        yield made


def has(pid: int, address: int) -> bool:
    return any(start <= address < end for start, end in lazy_mappings(pid))


def test_private_anonymous_memory_counts_whatever_its_protection(scribbler: Scribbler) -> None:
    for prot in (NOTHING, READ, 3, 7):
        assert has(scribbler.pid, scribbler.map(PAGES, prot=prot))
    scribbler.do("brk", 3, 1)
    names = Path(f"/proc/{scribbler.pid}/maps").read_text().splitlines()
    for name in ("[heap]", "[stack]"):
        line = next(line for line in names if line.endswith(name))
        assert has(scribbler.pid, int(line.split("-")[0], 16))


def test_shared_memory_files_and_what_is_the_kernels_do_not(scribbler: Scribbler) -> None:
    assert not has(scribbler.pid, scribbler.map(PAGES, flags=MAP_SHARED))
    for line in Path(f"/proc/{scribbler.pid}/maps").read_text().splitlines():
        if line.endswith(("[vdso]", "[vvar]", "[vsyscall]", "scribbler")):
            assert not has(scribbler.pid, int(line.split("-")[0], 16))


def test_the_pages_that_are_there_are_those(scribbler: Scribbler) -> None:
    area = scribbler.map(PAGES)
    for first, count in ((0, 1), (5, 3), (510, 4), (PAGES - 1, 1)):
        scribbler.do("store", area + first * PAGE, count, 1)
    found = list(pages_there(scribbler.pid, [(area, area + PAGES * PAGE)]))
    assert [((start - area) // PAGE, (end - start) // PAGE) for start, end in found] == [
        (0, 1),
        (5, 3),
        (510, 4),
        (PAGES - 1, 1),
    ]


def test_pages_are_found_behind_a_lot_of_nothing(scribbler: Scribbler) -> None:
    pages = 3 << 16
    area = scribbler.map(pages)
    last = area + (pages - 1) * PAGE
    scribbler.do("store", area + (1 << 16) * PAGE, 1, 1)
    scribbler.do("store", last, 1, 1)
    found = list(pages_there(scribbler.pid, [(area, last + PAGE)]))
    assert found == [
        (area + (1 << 16) * PAGE, area + ((1 << 16) + 1) * PAGE),
        (last, last + PAGE),
    ]


def test_they_are_all_that_a_process_has_for_itself(scribbler: Scribbler) -> None:
    scribbler.do("store", scribbler.map(PAGES), PAGES, 1)
    scribbler.do("stack", 50, 1)
    stop(scribbler.pid)
    there = {
        page
        for start, end in pages_there(scribbler.pid, lazy_mappings(scribbler.pid))
        for page in range(start, end, PAGE)
    }
    assert memory_of(scribbler.pid).keys() <= there


def test_how_much_it_is(scribbler: Scribbler) -> None:
    before = amounts([scribbler.pid])
    scribbler.do("store", scribbler.map(PAGES), PAGES, 1)
    scribbler.do("store", scribbler.map(PAGES, flags=MAP_SHARED), PAGES, 1)
    after = amounts([scribbler.pid, 1 << 22])  # the second one is nobody
    assert after.lazy_bytes - before.lazy_bytes >= PAGES * PAGE
    assert after.other_bytes - before.other_bytes >= PAGES * PAGE


def test_a_process_that_has_ended_is_an_error(scribbler: Scribbler) -> None:
    child = scribbler.do("fork", scribbler.map(1), 1, 1)
    scribbler.do("reap", child)
    for look in (lazy_mappings, lambda pid: list(pages_there(pid, []))):
        with pytest.raises(FileNotFoundError):
            look(child)
    assert not os.path.exists(f"/proc/{child}")
