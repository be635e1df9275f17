"""Locks that somebody outside holds on a container's files."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

from migrate.checkpoint.facts import Facts, Process
from migrate.live import locks
from tests.live.test_standing import FACTS


def facts(*pids: int) -> Facts:
    processes = tuple(
        Process(pid=pid, inner_pid=7, command="db", threads=1, uid=0, memory_bytes=0)
        for pid in pids
    )
    return replace(FACTS, processes=processes)


def test_a_lock_of_somebody_else_on_an_open_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data"
    parent_reads, child_writes = os.pipe()
    child_reads, parent_writes = os.pipe()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            os.close(parent_writes)
            os.write(child_writes, b"x")
            os.read(child_reads, 1)
            os._exit(0)
        os.read(parent_reads, 1)
        try:
            # Whoever runs the tests may hold locks, too.
            (found,) = [each for each in locks.judge(facts(child)) if str(path) in each.message]
            assert found.verdict == "warn"
            assert f"process {os.getpid()} (" in found.message
            assert f"holds a lock (FLOCK) on {path}, which process 7 (db) has open" in found.message
            ours = locks.judge(facts(child, os.getpid()))
            assert not [each for each in ours if str(path) in each.message]
        finally:
            for end in (parent_reads, child_writes, child_reads, parent_writes):
                os.close(end)
            os.waitpid(child, 0)


def test_a_lock_on_a_file_that_is_not_its_own_does_not_matter(tmp_path: Path) -> None:
    with (tmp_path / "data").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert list(locks.judge(facts(1))) == []
