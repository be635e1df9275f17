"""Which pages were written, by the kernel: none that differs may be missing."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.page_set import PageSet
from migrate.checkpoint.written import Protection
from migrate.errors import KernelError
from tests.checkpoint.conftest import compiled
from tests.checkpoint.scribbling import (
    LARGE_PAGE,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MAP_DROPPABLE,
    NOTHING,
    PAGE,
    READ,
    WRITE,
    ZEROS,
    Scribbler,
    go_on,
    memory_of,
    stop,
)

pytestmark = pytest.mark.root
PAGES = 40


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("scribbler"), "scribbler")


@pytest.fixture
def scribbler(program: Path) -> Iterator[Scribbler]:
    with Scribbler(program) as made:
        yield made


class Watch:
    """A watched process, and a copy of its memory that is kept up by what was found."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.protection = Protection(pid)
        self.copy: dict[int, bytes] = {}
        self.found = 0

    def look(self) -> set[int]:
        """Ask what was written; fail where that leaves the copy wrong.

        Returns:
            The pages that were found.
        """
        stop(self.pid)
        spans = self.protection.written()
        truth = memory_of(self.pid)
        go_on(self.pid)
        found = {page for start, end in spans for page in range(start, end, PAGE)}
        self.copy.update({page: truth[page] for page in found & truth.keys()})
        wrong = [page for page in truth if truth[page] != self.copy.get(page, ZEROS)]
        assert not wrong, f"not found: {[hex(page) for page in wrong]}"
        self.found += len(found)
        return found


@pytest.fixture
def watch(scribbler: Scribbler) -> Iterator[Watch]:
    made = Watch(scribbler.pid)
    yield made
    made.protection.close()


def pages_of(address: int, pages: int) -> set[int]:
    return set(range(address, address + pages * PAGE, PAGE))


def test_the_first_look_finds_all_and_the_next_only_what_was_written(
    scribbler: Scribbler, watch: Watch
) -> None:
    area = scribbler.map(PAGES)
    scribbler.do("store", area, PAGES, 1)
    assert watch.look() >= pages_of(area, PAGES)
    scribbler.do("store", area + 7 * PAGE, 3, 2)
    found = watch.look()
    assert found & pages_of(area, PAGES) == pages_of(area + 7 * PAGE, 3)
    assert not watch.look() & pages_of(area, PAGES)


def test_zeros_that_nobody_has_written_are_not_found(scribbler: Scribbler, watch: Watch) -> None:
    area = scribbler.map(PAGES)
    scribbler.do("look", area, PAGES)
    assert not watch.look() & pages_of(area, PAGES)
    scribbler.do("store", area, 1, 1)
    assert watch.look() & pages_of(area, PAGES) == {area}


WAYS: dict[str, Callable[[Scribbler, int], object]] = {
    "store": lambda it, area: it.do("store", area, PAGES, 9),
    "read(2)": lambda it, area: it.do("read", area, PAGES),
    "another process": lambda it, area: it.do("other", area, PAGES, 9),
    "zeros": lambda it, area: it.do("clear", area, PAGES),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [PAGES, 2 * LARGE_PAGE // PAGE])
def test_every_way_to_write_counts(scribbler: Scribbler, watch: Watch, way: str, size: int) -> None:
    area = scribbler.map(size)
    scribbler.do("advise", area, size, MADV_HUGEPAGE)
    scribbler.do("store", area, size, 1)
    watch.look()
    for offset in (0, size - PAGES):
        WAYS[way](scribbler, area + offset * PAGE)
        assert watch.look() >= pages_of(area + offset * PAGE, PAGES)


@pytest.mark.parametrize("way", WAYS)
def test_a_mapping_that_is_made_later_is_found(
    scribbler: Scribbler, watch: Watch, way: str
) -> None:
    watch.look()
    area = scribbler.map(PAGES)
    WAYS[way](scribbler, area)
    assert watch.look() >= pages_of(area, PAGES)
    WAYS[way](scribbler, area)
    assert watch.look() >= pages_of(area, PAGES)


def test_after_a_fork_the_writes_of_both_are_found(scribbler: Scribbler, watch: Watch) -> None:
    area = scribbler.map(PAGES)
    scribbler.do("store", area, PAGES, 1)
    watch.look()
    child = scribbler.do("fork", area, PAGES // 2, 2)
    other = Watch(child)
    assert not watch.look() & pages_of(area, PAGES), "the child's are not the parent's"
    assert other.look() >= pages_of(area, PAGES)
    scribbler.do("store", area, PAGES, 3)
    assert watch.look() >= pages_of(area, PAGES)
    assert not other.look() & pages_of(area, PAGES)
    other.protection.close()
    scribbler.do("reap", child)
    scribbler.do("store", area, PAGES, 4)
    assert watch.look() >= pages_of(area, PAGES)


def test_memory_that_moves_and_grows_is_found(scribbler: Scribbler, watch: Watch) -> None:
    area = scribbler.map(PAGES)
    scribbler.do("store", area, PAGES, 1)
    watch.look()
    area = scribbler.do("move", area, PAGES, 2 * PAGES)
    assert watch.look() >= pages_of(area, PAGES)
    scribbler.do("store", area + PAGES * PAGE, PAGES, 2)
    assert watch.look() >= pages_of(area + PAGES * PAGE, PAGES)
    # Where another had been, which was sent.
    other = scribbler.map(PAGES)
    scribbler.do("store", other, PAGES, 3)
    watch.look()
    scribbler.do("unmap", other, PAGES)
    scribbler.map(PAGES, at=other)
    scribbler.do("store", other, PAGES, 4)
    assert watch.look() >= pages_of(other, PAGES)


@pytest.mark.parametrize("advice", [MADV_DONTNEED, MADV_FREE])
def test_pages_that_were_given_up_and_written_again_are_found(
    scribbler: Scribbler, watch: Watch, advice: int
) -> None:
    area = scribbler.map(PAGES)
    scribbler.do("store", area, PAGES, 1)
    watch.look()
    scribbler.do("advise", area, PAGES, advice)
    watch.look()
    scribbler.do("store", area, PAGES // 2, 2)
    assert watch.look() >= pages_of(area, PAGES // 2)


def test_heap_and_stack_are_found_as_they_grow(scribbler: Scribbler, watch: Watch) -> None:
    watch.look()
    for seed in range(1, 4):
        scribbler.do("brk", PAGES, seed)
        assert len(watch.look()) >= PAGES - 1
        scribbler.do("stack", seed * PAGES, seed)
        assert len(watch.look()) >= PAGES


def test_protection_by_the_program_itself_hides_nothing(scribbler: Scribbler, watch: Watch) -> None:
    area = scribbler.map(PAGES)
    scribbler.do("store", area, PAGES, 1)
    for prot in (NOTHING, READ):
        watch.look()
        scribbler.do("store", area, PAGES // 2, prot + 2)
        scribbler.do("protect", area, PAGES, prot)
        assert watch.look() >= pages_of(area, PAGES // 2)
        scribbler.do("protect", area, PAGES, WRITE)
        scribbler.do("store", area + 3 * PAGE, 2, prot + 5)
        assert watch.look() >= pages_of(area + 3 * PAGE, 2)


def test_a_mapping_that_cannot_be_watched_counts_as_written_every_time(
    scribbler: Scribbler, watch: Watch
) -> None:
    """What glibc draws its random numbers from is one, since 2.41."""
    area = scribbler.map(PAGES, flags=MAP_DROPPABLE)
    scribbler.do("store", area, PAGES, 1)
    for seed in range(3):
        assert watch.look() >= pages_of(area, PAGES)
        scribbler.do("store", area, PAGES, seed)
    other = scribbler.map(PAGES)
    scribbler.do("store", other, PAGES, 1)
    assert watch.look() >= pages_of(other, PAGES)
    assert not watch.look() & pages_of(other, PAGES)


def test_other_memory_after_an_execve_is_an_error(scribbler: Scribbler, watch: Watch) -> None:
    watch.look()
    scribbler.do("exec")
    with pytest.raises(KernelError):
        watch.protection.written()
    anew = Watch(scribbler.pid)
    anew.look()
    anew.protection.close()


def test_a_process_that_has_ended_is_an_error(scribbler: Scribbler) -> None:
    child = scribbler.do("fork", scribbler.map(1), 1, 1)
    protection = Protection(child)
    protection.written()
    scribbler.do("reap", child)
    with pytest.raises(OSError, match="No such"):
        protection.written()
    protection.close()
    protection.close()


def test_pages_are_found_while_it_cannot_run(scribbler: Scribbler, watch: Watch) -> None:
    area = scribbler.map(PAGES)
    watch.look()
    scribbler.do("store", area, PAGES, 1)
    os.kill(scribbler.pid, signal.SIGSTOP)
    stop(scribbler.pid)
    found = PageSet()
    for span in watch.protection.written():
        found.add(*span)
    assert not list(found.missing(area, area + PAGES * PAGE))
    go_on(scribbler.pid)


KINDS = [
    *("store", "store", "clear", "read", "other", "look", "advise", "protect"),
    *("fork", "reap", "move", "unmap", "again", "brk", "stack"),
]


class Chance:
    """Does to a process's memory what comes to mind."""

    def __init__(self, scribbler: Scribbler, seed: int) -> None:
        self.scribbler = scribbler
        self.random = random.Random(seed)
        self.areas: dict[int, int] = {}
        self.children: list[int] = []
        self.said: list[str] = []

    def step(self) -> None:
        """Do one thing."""
        chance = self.random
        if len(self.areas) < 2 or (len(self.areas) < 6 and chance.random() < 0.1):
            self._map()
            return
        area = chance.choice(sorted(self.areas))
        first = chance.randrange(self.areas[area])
        pages = chance.randint(1, min(64, self.areas[area] - first))
        at, seed = area + first * PAGE, chance.randrange(1 << 30)
        kind = chance.choice(KINDS)
        self.said.append(f"{kind} {at:#x} {pages}")
        do = self.scribbler.do
        if kind in ("store", "other"):
            do(kind, at, pages, seed)
        elif kind in ("clear", "read", "look"):
            do(kind, at, pages)
        elif kind == "advise":
            do(kind, at, pages, chance.choice([MADV_DONTNEED, MADV_DONTNEED, 14, 15]))
        elif kind == "protect":
            do(kind, at, pages, chance.choice([NOTHING, READ]))
            if chance.random() < 0.5:
                # Somebody else looks meanwhile, or not.
                do(kind, at, pages, WRITE)
            else:
                self._protected = (at, pages)
        elif kind == "fork" and len(self.children) < 3:
            self.children.append(do(kind, at, pages, seed))
        elif kind == "reap" and self.children:
            do(kind, self.children.pop())
        elif kind == "move":
            size = self.areas.pop(area)
            grown = max(1, size + chance.randint(-8, 8))
            self.areas[do(kind, area, size, grown)] = grown
        elif kind == "unmap" and len(self.areas) > 2:
            do(kind, area, self.areas.pop(area))
        elif kind == "again":
            do("unmap", at, pages)
            self.scribbler.map(pages, at=at)
            do("store", at, chance.randint(1, pages), seed)
        elif kind == "brk":
            do(kind, 1 + pages, seed)
        elif kind == "stack":
            do(kind, pages, seed)

    _protected: tuple[int, int] | None = None

    def unprotect(self) -> None:
        """Let what was protected be written again."""
        if self._protected is not None:
            self.scribbler.do("protect", *self._protected, WRITE)
            self._protected = None

    def _map(self) -> None:
        pages = self.random.choice([1, 5, 64, 3 * LARGE_PAGE // PAGE])
        area = self.scribbler.map(pages)
        if pages > LARGE_PAGE // PAGE:
            self.scribbler.do("advise", area, pages, MADV_HUGEPAGE)
        self.areas[area] = pages


@pytest.mark.parametrize("attempt", range(6))
def test_whatever_is_done_nothing_is_missed(
    scribbler: Scribbler, watch: Watch, attempt: int
) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"attempt {attempt}: seed {seed}")
    chance = Chance(scribbler, seed)
    for _ in range(150):
        for _ in range(chance.random.randint(1, 4)):
            chance.step()
            if chance.random.random() < 0.3:
                watch.look()
            chance.unprotect()
        watch.look()
