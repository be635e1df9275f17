"""Threads that slept at the checkpoint sleep on after the restore."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from migrate.checkpoint import procfs
from migrate.checkpoint.dump import Dump
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.options import Request
from migrate.errors import CriuError
from tests.checkpoint.conftest import Box, Maker, compiled, eventually

pytestmark = pytest.mark.criu


@pytest.fixture
def sleeper(box: Maker, tmp_path: Path) -> Box:
    """A running container of sleeper.c."""
    made = box("/sleeper")
    shutil.copy2(compiled(tmp_path, "sleeper"), made.rootfs / "sleeper")
    made.start()
    eventually(lambda: len(procfs.tree(made.record["pid"])) == 4, "all three wait")
    time.sleep(0.1)
    return made


def ended(sleeper: Box, name: str) -> str:
    """Return how a wait ended, once it has."""
    eventually(lambda: "ended" in sleeper.words(name), f"{name} ends")
    return (sleeper.rootfs / name).read_text().strip().partition("=")[2]


def test_sleeps_are_taken_up_again_and_end_whole(sleeper: Box) -> None:
    began = time.monotonic()
    sleeper.checkpoint()
    sleeper.restore()
    assert ended(sleeper, "nanosleep") == "whole"
    assert time.monotonic() - began < 30
    assert ended(sleeper, "poll") == "whole"


def test_a_wait_without_end_has_no_end_after_a_restore_but_a_signal(sleeper: Box) -> None:
    sleeper.checkpoint()
    sleeper.restore()
    assert ended(sleeper, "poll") == "whole"
    assert not sleeper.words("endless")
    for pid in procfs.tree(sleeper.record["pid"])[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    assert ended(sleeper, "endless") == "Interrupted system call"


def test_sleeps_go_on_where_a_checkpoint_left_it_running(sleeper: Box) -> None:
    sleeper.checkpoint("--leave-running")
    assert ended(sleeper, "nanosleep") == "whole"
    assert ended(sleeper, "poll") == "whole"
    assert not sleeper.words("endless")


def test_sleeps_go_on_where_a_dump_was_given_up(sleeper: Box, criu: str, tmp_path: Path) -> None:
    facts, groups = sleeper.facts(), sleeper.record["cgroup"]
    with (
        ImageDirectory(str(tmp_path / "images"), create=True) as images,
        Dump(criu, facts, Request(), cgroup=groups, images=images) as dump,
    ):
        with pytest.raises(CriuError):
            dump.run({"post-dump": lambda _: False})
        dump.close()
        dump.fence.thaw()
    assert ended(sleeper, "nanosleep") == "whole"
    assert ended(sleeper, "poll") == "whole"
    assert not sleeper.words("endless")
    assert sleeper.status == "running"


def test_a_busybox_that_sleeps_does_not_end(box: Maker) -> None:
    lazy = box("sleep", "10000")
    lazy.start()
    for _ in range(2):
        lazy.checkpoint()
        lazy.restore()
        shutil.rmtree(lazy.images)
        time.sleep(0.2)
        assert lazy.status == "running"
