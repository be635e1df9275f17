"""A keeper fills the memory of real processes, whatever they do with it meanwhile."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.keeper_journal import JOURNAL_BYTES
from migrate.checkpoint.keeping import Keeping, Progress
from migrate.checkpoint.userfaults import Collector
from migrate.errors import CriuError
from tests.checkpoint.conftest import compiled, eventually
from tests.checkpoint.faulters import PAGE, Faulter

pytestmark = pytest.mark.root
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("faulter"), "faulter")


class Scene:
    """Processes, and the keeper that fills them."""

    def __init__(self, folder: Path, program: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._program = program
        self._stack = stack
        self._numbers = 0
        self._faulters: list[Faulter] = []
        self.descriptors: list[int] = []
        self.keeping = stack.enter_context(Keeping())

    def faulter(self, pages: int) -> Faulter:
        """Return a new process that misses so many pages."""
        self._numbers += 1
        with Collector(str(self._folder)) as collector:
            made = self._stack.enter_context(
                Faulter(
                    self._program,
                    str(self._folder / "lazy-pages.socket"),
                    number=self._numbers,
                    pages=pages,
                )
            )
            assert collector.wait({made.number}, PATIENCE_SECONDS)
            self.descriptors.append(os.dup(collector.taken()[made.number]))
        self._faulters.append(made)
        return made

    def start(self, *, fill: bool = True) -> None:
        """Start the keeper; it alone, and what it was started by, has the userfaultfds."""
        kept = [each.kept(fd) for each, fd in zip(self._faulters, self.descriptors, strict=True)]
        self.keeping.start(kept, fill=fill)
        self.drop()

    def drop(self) -> None:
        """Close the userfaultfds that only the tests have."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


@pytest.fixture
def scene(tmp_path: Path, program: Path) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        made = Scene(tmp_path, program, stack)
        stack.callback(made.drop)
        yield made


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone."""
    return not os.path.exists(f"/proc/{pid}")


def test_all_memory_is_filled_and_its_store_given_back(scene: Scene) -> None:
    faulter = scene.faulter(pages=24 << 8)
    assert faulter.store_bytes > 20 << 20
    scene.start()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert scene.keeping.progress == Progress(24 << 20, 24 << 20)
    assert faulter.store_bytes == 0
    # Nobody answers faults any more: every page is there, or is the kernel's to give.
    assert faulter.ask("check", 0, faulter.pages) == "right"
    assert faulter.ask("fork", 0, faulter.pages) == "right"


def test_who_misses_a_page_is_answered_before_anything_is_filled(scene: Scene) -> None:
    faulter = scene.faulter(pages=4096)
    scene.start(fill=False)
    assert faulter.ask("check", 1000, 200) == "right"
    assert not scene.keeping.wait(0)
    scene.keeping.fill()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.ask("check", 0, faulter.pages) == "right"


def test_many_processes_are_filled(scene: Scene) -> None:
    faulters = [scene.faulter(pages=64 + number) for number in range(130)]
    scene.start()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    for faulter in faulters:
        assert faulter.ask("check", 0, faulter.pages) == "right"
        assert faulter.store_bytes == 0


@pytest.mark.parametrize("what", ["give", "move", "unmap", "protect", "fork"])
def test_what_a_process_does_to_memory_that_it_misses_is_followed(scene: Scene, what: str) -> None:
    faulter = scene.faulter(pages=16 << 8)
    scene.start(fill=False)
    assert faulter.ask("check", 1030, 20) == "right"
    assert faulter.ask(what, 1000, 2000) == "right"
    assert faulter.ask("check", 900, 500) == "right"
    scene.keeping.fill()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.ask("check", 0, faulter.pages) == "right"
    assert faulter.store_bytes == 0


@pytest.mark.parametrize("what", ["churn", "race"])
@pytest.mark.parametrize("seed", range(4))
def test_memory_is_right_whatever_happens_to_it_while_it_is_filled(
    scene: Scene, what: str, seed: int
) -> None:
    faulter = scene.faulter(pages=32 << 8)
    scene.start(fill=False)
    faulter.tell(what, seed, 600)
    time.sleep(0.05 * seed)
    scene.keeping.fill()
    assert faulter.hear() == "right"
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.ask("check", 0, faulter.pages) == "right"
    assert faulter.store_bytes == 0


def test_a_process_that_ends_is_forgotten(scene: Scene) -> None:
    ends, stays = scene.faulter(pages=4096), scene.faulter(pages=4096)
    scene.start(fill=False)
    ends.process.kill()
    ends.process.wait()
    scene.keeping.fill()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert stays.ask("check", 0, stays.pages) == "right"
    assert ends.store_bytes == 0


def test_who_misses_a_page_of_a_killed_keeper_waits_for_the_next(scene: Scene) -> None:
    faulter = scene.faulter(pages=64 << 8)
    scene.start(fill=False)
    assert faulter.ask("check", 0, 1000) == "right"
    assert faulter.ask("give", 100, 100) == "right"
    os.kill(scene.keeping.pid, signal.SIGKILL)
    with pytest.raises(CriuError, match="killed by signal 9"):
        scene.keeping.wait(PATIENCE_SECONDS)
    faulter.tell("check", 0, faulter.pages)
    eventually(lambda: faulter.waits, "it waits")
    scene.keeping.fill()
    scene.keeping.restart()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.hear() == "right"
    assert faulter.store_bytes == 0


@pytest.mark.parametrize("seed", range(3))
def test_keepers_that_are_killed_at_any_moment_lose_nothing(scene: Scene, seed: int) -> None:
    faulter = scene.faulter(pages=32 << 8)
    scene.start(fill=False)
    faulter.tell("alone", seed, 800)
    for kills in range(12):
        time.sleep(0.002 * (kills % 5))
        if kills == 6:
            scene.keeping.fill()
        os.kill(scene.keeping.pid, signal.SIGKILL)
        with contextlib.suppress(CriuError):
            scene.keeping.wait(PATIENCE_SECONDS)
        scene.keeping.restart()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.hear() == "right"
    assert faulter.ask("check", 0, faulter.pages) == "right"


def test_a_forked_process_outlives_the_keeper_that_saw_it_forked(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    scene.start(fill=False)
    assert faulter.ask("leave", 0, 2048) == "right"
    eventually(lambda: scene.keeping._forked, "it is told")
    os.kill(scene.keeping.pid, signal.SIGKILL)
    with pytest.raises(CriuError):
        scene.keeping.wait(PATIENCE_SECONDS)
    scene.keeping.fill()
    scene.keeping.restart()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.ask("left") == "right"


def test_a_keeper_does_not_listen_to_signals(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    scene.start(fill=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(scene.keeping.pid, number)
    assert faulter.ask("check", 0, 10) == "right"
    scene.keeping.fill()
    assert scene.keeping.wait(PATIENCE_SECONDS)


def test_a_keeper_whose_parent_is_gone_goes_on_alone(scene: Scene) -> None:
    faulter = scene.faulter(pages=16 << 8)
    scene.start(fill=False)
    pid = scene.keeping.pid
    os.kill(pid, signal.SIGSTOP)
    scene.keeping.close()
    faulter.tell("check", 0, faulter.pages)
    eventually(lambda: faulter.waits, "it waits")
    os.kill(pid, signal.SIGCONT)
    assert faulter.hear() == "right"
    eventually(lambda: has_ended(pid), "the keeper ends")
    assert faulter.store_bytes == 0


def test_what_is_there_already_stays_as_it_is(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    scene.start(fill=False)
    for first in range(0, 1000, 100):
        assert faulter.ask("check", first, 7) == "right"
    os.kill(scene.keeping.pid, signal.SIGKILL)
    # The next does not know what this one did.
    os.truncate(scene.keeping._journal, 0)
    os.truncate(scene.keeping._journal, JOURNAL_BYTES)
    os.pwrite(faulter.store, b"\xee" * PAGE, faulter.address)
    scene.keeping.restart()
    scene.keeping.fill()
    assert scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.ask("check", 0, faulter.pages) == "right"


def test_a_forked_process_that_no_keeper_can_fill_is_said(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    scene.start(fill=False)
    assert faulter.ask("leave", 0, 2048) == "right"
    eventually(lambda: scene.keeping._forked, "it is told")
    os.kill(scene.keeping.pid, signal.SIGKILL)
    os.close(scene.keeping._forked.popitem()[1])
    with pytest.raises(CriuError, match="forked as its keeper died"):
        scene.keeping.restart()
    faulter.tell("check", 0, 10)
    eventually(lambda: faulter.waits, "it waits")


def test_a_keeper_that_was_never_told_what_to_do_ends(scene: Scene) -> None:
    pid = scene.keeping.pid
    scene.keeping.close()
    assert has_ended(pid)


class Parent:
    """A process that starts a keeper for one other, and can be killed."""

    PROGRAM = """
import sys, time
from migrate.checkpoint.keeping import Keeping, Kept
userfaultfd, store, address, size = map(int, sys.argv[1:])
keeping = Keeping()
keeping.start([Kept(pid=1, userfaultfd=userfaultfd, store=store, spans=[(address, size)])],
              fill=False)
print(keeping.pid, flush=True)
time.sleep(600)
"""

    def __init__(self, scene: Scene, faulter: Faulter, store: int) -> None:
        (userfaultfd,) = scene.descriptors
        place = (faulter.address, faulter.pages * PAGE)
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, *map(str, (userfaultfd, store, *place))],
            pass_fds=(userfaultfd, store),
            stdout=subprocess.PIPE,
        )
        scene.drop()
        assert self.process.stdout is not None
        self.keeper = int(self.process.stdout.readline())

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


def test_a_keeper_goes_on_when_its_parent_is_killed(scene: Scene) -> None:
    faulter = scene.faulter(pages=64 << 8)
    parent = Parent(scene, faulter, faulter.store)
    assert faulter.ask("check", 0, 10) == "right"
    parent.kill()
    assert faulter.ask("check", 0, faulter.pages) == "right"
    eventually(lambda: has_ended(parent.keeper), "it ends")
    assert faulter.ask("fork", 0, faulter.pages) == "right"
    assert faulter.store_bytes == 0


def unreadable(store: int) -> int:
    """Return a descriptor of a store that can only be written to."""
    return os.open(f"/proc/self/fd/{store}", os.O_WRONLY)


def test_a_keeper_that_failed_and_is_alone_holds_on_until_nobody_waits(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    store = unreadable(faulter.store)
    parent = Parent(scene, faulter, store)
    os.close(store)
    faulter.tell("check", 0, 10)
    eventually(lambda: faulter.waits, "it waits")
    parent.kill()
    time.sleep(1.5)  # longer than it takes to look at it again
    assert faulter.waits
    assert not has_ended(parent.keeper)
    faulter.process.kill()
    faulter.process.wait()
    eventually(lambda: has_ended(parent.keeper), "it ends")


def test_a_store_that_cannot_be_read_makes_it_fail_and_everybody_wait(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    store = unreadable(faulter.store)
    os.dup2(store, faulter.store)
    os.close(store)
    scene.start(fill=False)
    faulter.tell("check", 0, 10)
    with pytest.raises(CriuError, match="keeper of the container's memory failed"):
        scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.waits


def test_more_processes_than_files_may_be_open_are_refused(scene: Scene) -> None:
    faulters = [scene.faulter(pages=256) for _ in range(10)]
    resource.prlimit(scene.keeping.pid, resource.RLIMIT_NOFILE, (16, 16))
    with pytest.raises(CriuError, match="limit of open files is too low"):
        scene.start(fill=False)
    faulters[0].tell("check", 0, 10)
    eventually(lambda: faulters[0].waits, "it waits")
