"""A container that CRIU restored without its memory runs, and gets it from a keeper."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from migrate.checkpoint.keeping import Keeping, Kept
from migrate.checkpoint.pages import PE_LAZY
from migrate.checkpoint.userfaults import Collector
from migrate.errors import CriuError
from tests.checkpoint.conftest import MIGRATE, Box, Maker, eventually
from tests.checkpoint.faulters import PAGE

pytestmark = pytest.mark.criu
PATIENCE_SECONDS = 20.0
FIRST_PROCESS = 1


@pytest.fixture
def dumped(box: Maker) -> Box:
    """A payload with some memory, all of it in its images."""
    made = box("/bin/payload", "--status", "/status", "--memory", "24")
    made.start()
    eventually(lambda: made.number("ticks") > 20, "it runs")
    made.checkpoint()
    return made


def entries_of(image: Path) -> list[dict[str, Any]]:
    """Return what is in an image."""
    from pycriu import images

    with image.open("rb") as file:
        return list(images.load(file)["entries"])


def taken_out(images: Path) -> tuple[int, list[tuple[int, int]]]:
    """Return the lazy pages of the first process: its store, and where they belong."""
    head, *runs = entries_of(images / f"pagemap-{FIRST_PROCESS}.img")
    store = os.memfd_create("store")
    os.truncate(store, 1 << 47)
    spans = []
    with (images / f"pages-{head['pages_id']}.img").open("rb") as pages:
        for run in runs:
            size = run["nr_pages"] * PAGE
            content = pages.read(size)
            if run["flags"] & PE_LAZY:
                spans.append((run["vaddr"], size))
                os.pwrite(store, content, run["vaddr"])
    return store, spans


class Restoring:
    """A lazy restore as another process does it, and what it sends."""

    def __init__(self, dumped: Box, work: Path) -> None:
        self.dumped = dumped
        self.collector = Collector(str(work))
        self.log = work.parent / "restoring"
        with self.log.open("wb") as log:
            self.process = self._start(log, work)

    def _start(self, log: IO[bytes], work: Path) -> subprocess.Popen[bytes]:
        """Run the command."""
        dumped = self.dumped
        return subprocess.Popen(
            [
                *(MIGRATE, "--root", dumped.store.root, "restore", "-d", "--lazy-pages"),
                *("--image-path", str(dumped.images), "--work-path", str(work)),
                *("--bundle", str(dumped.bundle), dumped.id),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def kept(self, store: int, spans: list[tuple[int, int]]) -> Kept:
        """Wait for its userfaultfd, and return what a keeper must know."""
        assert self.collector.wait({FIRST_PROCESS}, PATIENCE_SECONDS), self.log.read_text()
        userfaultfd = self.collector.taken()[FIRST_PROCESS]
        return Kept(pid=FIRST_PROCESS, userfaultfd=userfaultfd, store=store, spans=spans)

    def wait(self) -> None:
        """Wait for its end."""
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.log.read_text()
        assert self.collector.is_finished

    def verify(self) -> None:
        """Let the container compare its memory."""
        ticks = self.dumped.number("ticks")
        eventually(lambda: self.dumped.number("ticks") > ticks + 50, "it goes on")
        self.dumped.migrate("kill", self.dumped.id, "USR2")
        eventually(lambda: self.dumped.words().get("memory") == "intact", "its memory is intact")


@pytest.fixture
def restoring(dumped: Box, tmp_path: Path) -> Iterator[Restoring]:
    work = tmp_path / "work"
    work.mkdir()
    made = Restoring(dumped, work)
    yield made
    made.collector.close()
    made.process.kill()
    made.process.wait()


@pytest.fixture
def store(dumped: Box) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    made = taken_out(dumped.images)
    yield made
    os.close(made[0])


def test_a_restored_container_gets_its_memory(
    store: tuple[int, list[tuple[int, int]]], restoring: Restoring
) -> None:
    assert sum(size for _, size in store[1]) > 24 << 20
    with Keeping() as keeping:
        keeping.start([restoring.kept(*store)], fill=False)
        restoring.collector.let_go()
        restoring.wait()
        keeping.fill()
        assert keeping.wait(PATIENCE_SECONDS)
        restoring.verify()
    assert os.fstat(store[0]).st_blocks == 0


def test_a_restored_container_waits_while_it_has_no_keeper(
    store: tuple[int, list[tuple[int, int]]], restoring: Restoring
) -> None:
    with Keeping() as keeping:
        keeping.start([restoring.kept(*store)], fill=False)
        restoring.collector.let_go()
        restoring.wait()
        os.kill(keeping.pid, signal.SIGKILL)
        with pytest.raises(CriuError):
            keeping.wait(PATIENCE_SECONDS)
        restoring.dumped.migrate("kill", restoring.dumped.id, "USR2")
        wchan = Path(f"/proc/{restoring.dumped.record['pid']}/wchan")
        eventually(lambda: wchan.read_text() == "handle_userfault", "it waits")
        keeping.restart()
        keeping.fill()
        assert keeping.wait(PATIENCE_SECONDS)
        restoring.verify()
