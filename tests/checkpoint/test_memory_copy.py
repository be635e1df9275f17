"""Memory copied while its processes run: in the end every page is what it is there."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.address_store import AddressStore
from migrate.checkpoint.mappings import Span
from migrate.checkpoint.memory_copy import MemoryCopy, Pass
from migrate.checkpoint.pages import StreamSummary
from tests.checkpoint.conftest import compiled
from tests.checkpoint.scribbling import (
    LARGE_PAGE,
    MADV_DONTNEED,
    MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE,
    MADV_HUGEPAGE,
    NOTHING,
    PAGE,
    WRITE,
    Scribbler,
    go_on,
    memory_of,
    stop,
)

pytestmark = pytest.mark.root
PAGES = 300

Make = Callable[[], Scribbler]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("scribbler"), "scribbler")


@pytest.fixture
def make(program: Path) -> Iterator[Make]:
    """Makes processes; they end with the test."""
    made: list[Scribbler] = []

    def one() -> Scribbler:
        made.append(Scribbler(program))
        return made[-1]

    yield one
    for each in made:
        each.close()


class Journey:
    """A copy and where it arrives.

    Attributes:
        processes: pids, each with its number inside.
    """

    def __init__(self, folder: str, *, by_kernel: bool) -> None:
        self.store = AddressStore(folder)
        self.copy = MemoryCopy(self.store.feed, by_kernel=by_kernel)
        self.processes: dict[int, int] = {}

    def pass_over(self, *, frozen: bool = False) -> Pass:
        """Send what was written."""
        return self.copy.pass_over(self.processes.items(), frozen=frozen)

    def arrive(self) -> StreamSummary:
        """Stop everything, send the rest, and compare every page."""
        stop(*self.processes)
        self.pass_over(frozen=True)
        truth = {pid: memory_of(pid) for pid in self.processes}
        wanted = [(pid, number, spans(truth[pid])) for pid, number in self.processes.items()]
        sent = self.copy.complete(wanted)
        assert self.store.finish() == sent
        for pid, number in self.processes.items():
            file = self.store.file_of(number)
            wrong = [
                hex(page)
                for page, content in truth[pid].items()
                if os.pread(file, PAGE, page) != content
            ]
            assert not wrong, f"process {number}: {len(wrong)} pages differ: {wrong[:20]}"
        go_on(*self.processes)
        return sent


def spans(pages: dict[int, bytes]) -> list[Span]:
    """Return pages as the list of a dump has them."""
    found: list[Span] = []
    for page in sorted(pages):
        if found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + PAGE)
        else:
            found.append((page, page + PAGE))
    return found


@pytest.fixture(params=["kernel", "digests"])
def journey(request: pytest.FixtureRequest) -> Iterator[Journey]:
    # A file as large as an address space: only in memory can there be one.
    made = Journey("/run", by_kernel=request.param == "kernel")
    yield made
    made.copy.close()
    made.store.close()


def test_a_process_that_never_rests_arrives_as_it_is(journey: Journey, make: Make) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    plain, large = scribbler.map(PAGES), scribbler.map(3 * LARGE_PAGE // PAGE)
    scribbler.do("advise", large, 3 * LARGE_PAGE // PAGE, MADV_HUGEPAGE)
    scribbler.do("read", plain, PAGES)
    scribbler.do("read", large, 3 * LARGE_PAGE // PAGE)
    scribbler.do("busy", plain, PAGES, 2)
    scribbler.do("busy", large, 3 * LARGE_PAGE // PAGE, 1)
    passes = [journey.pass_over() for _ in range(8)]
    assert passes[0].pages >= LARGE_PAGE // PAGE  # it gives some back all the time
    sent = journey.arrive()
    assert sent.complete
    assert sent.page_bytes < sent.stream_bytes
    assert journey.copy.by_digests == (0 if journey.copy._by_kernel else 1)


def test_what_rests_is_sent_once(journey: Journey, make: Make) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    area = scribbler.map(PAGES)
    scribbler.do("read", area, PAGES)
    first = journey.pass_over()
    assert first.sent_bytes >= PAGES * PAGE
    assert journey.pass_over().sent_bytes < PAGES * PAGE // 4
    scribbler.do("store", area, 20, 1)
    assert 20 * PAGE <= journey.pass_over().sent_bytes < PAGES * PAGE // 4
    journey.arrive()


def test_what_is_unmapped_does_not_pile_up_there(journey: Journey, make: Make) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    area = scribbler.map(5 * PAGES)
    scribbler.do("store", area, 5 * PAGES, 1)
    journey.pass_over()
    scribbler.do("unmap", area, 4 * PAGES)
    before = os.fstat(journey.store.file_of(1)).st_blocks * 512
    journey.pass_over()
    assert before - os.fstat(journey.store.file_of(1)).st_blocks * 512 >= 3 * PAGES * PAGE
    # The same again where it was: nothing of it is there any more.
    assert scribbler.map(4 * PAGES, at=area) == area
    scribbler.do("store", area, 4 * PAGES, 1)
    journey.arrive()


def test_pages_that_become_zeros_are_zeros(journey: Journey, make: Make) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    area = scribbler.map(PAGES)
    for seed in range(3):
        scribbler.do("read", area, PAGES)
        journey.pass_over()
        scribbler.do("clear", area + seed * PAGE, PAGES // 3)
        journey.pass_over()
        scribbler.do("advise", area + 200 * PAGE, 50, MADV_DONTNEED)
        journey.pass_over()
        scribbler.do("clear", area + 210 * PAGE, 20)
    assert journey.pass_over().sent_bytes < PAGES * PAGE // 4
    journey.arrive()


def test_pages_that_were_gone_when_they_were_read_are_zeros_afterwards(
    journey: Journey, make: Make
) -> None:
    """As behind a guard, where the kernel says that there is one, and shows none."""
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    area = scribbler.map(PAGES)
    scribbler.do("read", area, PAGES)
    journey.pass_over()
    scribbler.do("advise", area, PAGES // 2, MADV_GUARD_INSTALL)
    journey.pass_over()
    scribbler.do("advise", area, PAGES // 2, MADV_GUARD_REMOVE)
    scribbler.do("clear", area, PAGES // 2)
    journey.pass_over()
    journey.arrive()


def test_memory_that_the_process_itself_may_not_read_goes_along(
    journey: Journey, make: Make
) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    area = scribbler.map(PAGES)
    scribbler.do("read", area, PAGES)
    scribbler.do("protect", area + 10 * PAGE, 50, NOTHING)
    journey.pass_over()
    scribbler.do("protect", area, PAGES, WRITE)
    scribbler.do("store", area, PAGES, 5)
    scribbler.do("protect", area, PAGES - 1, NOTHING)
    journey.arrive()


def test_processes_may_come_and_go(journey: Journey, make: Make) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    area = scribbler.map(PAGES)
    scribbler.do("read", area, PAGES)
    journey.pass_over()
    numbers = itertools.count(2)
    children = [scribbler.do("fork", area, PAGES // 2, seed) for seed in range(3)]
    journey.processes |= {child: next(numbers) for child in children}
    journey.pass_over()
    scribbler.do("store", area, PAGES, 9)
    gone = children.pop()
    scribbler.do("reap", gone)
    journey.pass_over()  # which finds it gone, and
    del journey.processes[gone]
    journey.pass_over()  # is told
    # One that nobody has looked at before everything stands still.
    journey.processes[scribbler.do("fork", area, PAGES, 77)] = next(numbers)
    journey.processes[scribbler.do("nest", area, PAGES, 78)] = next(numbers)
    journey.arrive()


def test_a_process_that_runs_another_program_has_that_ones_memory(
    journey: Journey, make: Make
) -> None:
    scribbler, other = make(), make()
    journey.processes |= {scribbler.pid: 1, other.pid: 2}
    for each in (scribbler, other):
        area = each.map(PAGES)
        each.do("read", area, PAGES)
        each.do("brk", PAGES, 1)
    journey.pass_over()
    for each in (scribbler, other):
        each.do("exec")
    scribbler.do("brk", PAGES, 2)
    journey.pass_over()
    scribbler.do("read", scribbler.map(PAGES), PAGES)
    scribbler.do("exec")
    scribbler.do("brk", 3, 3)
    scribbler.do("clear", scribbler.map(PAGES), PAGES)
    journey.arrive()


def test_a_number_that_is_given_again_is_the_new_processs(journey: Journey, make: Make) -> None:
    scribbler = make()
    area = scribbler.map(PAGES)
    scribbler.do("read", area, PAGES)
    old = scribbler.do("fork", area, PAGES, 1)
    journey.processes |= {scribbler.pid: 1, old: 2}
    journey.pass_over()
    scribbler.do("reap", old)
    scribbler.do("clear", area, PAGES // 2)
    new = scribbler.do("fork", area, PAGES // 4, 2)
    journey.processes = {scribbler.pid: 1, new: 2}
    journey.pass_over()
    scribbler.do("clear", area, PAGES)
    journey.arrive()


def test_a_pid_that_is_given_again_is_another_process(journey: Journey, make: Make) -> None:
    """To us two pids that change their numbers; the kernel would take a while for that."""
    first, second = make(), make()
    for each in (first, second):
        each.do("read", each.map(PAGES), PAGES)
    journey.processes = {first.pid: 1, second.pid: 2}
    journey.pass_over()
    journey.processes = {first.pid: 2, second.pid: 1}
    journey.pass_over()
    journey.processes = {first.pid: 2, second.pid: 7}
    journey.arrive()


def test_what_was_never_sent_before_it_stood_still_is_sent_then(
    journey: Journey, make: Make
) -> None:
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    scribbler.do("read", scribbler.map(PAGES), PAGES)
    sent = journey.arrive()
    assert sent.page_bytes >= PAGES * PAGE


@pytest.mark.parametrize("attempt", range(2))
def test_whatever_is_done_between_the_passes_all_of_it_arrives(
    journey: Journey, make: Make, attempt: int
) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"attempt {attempt}: seed {seed}")
    chance = random.Random(seed)
    scribbler = make()
    journey.processes[scribbler.pid] = 1
    areas = [scribbler.map(PAGES) for _ in range(4)]
    children: list[int] = []
    numbers = itertools.count(2)
    for _ in range(40):
        for _ in range(chance.randint(1, 5)):
            at = chance.choice(areas) + chance.randrange(PAGES - 30) * PAGE
            kind = chance.choice(["store", "clear", "read", "other", "advise", "fork", "reap"])
            more: dict[str, list[int]] = {
                "advise": [MADV_DONTNEED],
                "clear": [],
                "read": [],
            }
            if kind == "reap":
                if children:
                    child = children.pop(chance.randrange(len(children)))
                    scribbler.do("reap", child)
                    del journey.processes[child]
            elif kind == "fork":
                if len(children) < 3:
                    children.append(scribbler.do("fork", at, 30, chance.randrange(1 << 30)))
                    journey.processes[children[-1]] = next(numbers)
            else:
                scribbler.do(kind, at, 30, *more.get(kind, [chance.randrange(1 << 30)]))
        journey.pass_over()
    journey.arrive()
