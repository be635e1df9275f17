"""A keeper fills the memory of real processes, whatever they do with it meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.keeping import Keeping, Progress
from migrate.checkpoint.userfaults import Collector
from migrate.errors import CriuError
from tests.checkpoint.conftest import compiled, eventually
from tests.checkpoint.faulters import Faulter

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
        self._descriptors: list[int] = []
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
            self._descriptors.append(os.dup(collector.taken()[made.number]))
        self._faulters.append(made)
        return made

    def start(self, *, fill: bool = True) -> None:
        """Start the keeper; it alone, and what it was started by, has the userfaultfds."""
        kept = [each.kept(fd) for each, fd in zip(self._faulters, self._descriptors, strict=True)]
        self.keeping.start(kept, fill=fill)
        self.drop()

    def drop(self) -> None:
        """Close the userfaultfds that only the tests have."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


@pytest.fixture
def scene(tmp_path: Path, program: Path) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        made = Scene(tmp_path, program, stack)
        stack.callback(made.drop)
        yield made


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
    faulter.tell(what, seed, 2000)
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
    faulter = scene.faulter(pages=48 << 8)
    scene.start(fill=False)
    faulter.tell("race", seed, 3000)
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
    faulter.tell("leave", 0, 2048)
    assert faulter.hear() == "right"
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
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the keeper ends")
    assert faulter.store_bytes == 0


def test_a_store_that_cannot_be_read_makes_it_fail_and_everybody_wait(scene: Scene) -> None:
    faulter = scene.faulter(pages=2048)
    for_writing = os.open(f"/proc/self/fd/{faulter.store}", os.O_WRONLY)
    os.dup2(for_writing, faulter.store)
    os.close(for_writing)
    scene.start(fill=False)
    faulter.tell("check", 0, 10)
    with pytest.raises(CriuError, match="keeper of the container's memory failed"):
        scene.keeping.wait(PATIENCE_SECONDS)
    assert faulter.waits
