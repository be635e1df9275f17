"""Counters and lack of memory, as they happen."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from migrate.errors import WrongStatus
from migrate.runtime import cgroup, events
from migrate.runtime.cgroup.hierarchy import directory_of
from tests.runtime.test_cgroup import inside
from tests.runtime.test_state import record_of

pytestmark = pytest.mark.root

EATER = "x=a; while :; do x=$x$x; done"


@pytest.fixture
def paths() -> Iterator[dict[str, str]]:
    found = cgroup.resolve(None, f"cli-events-{os.getpid()}")
    cgroup.create(found, {"memory": {"limit": 8 << 20, "swap": 8 << 20}})
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


def test_events_follow_a_container_to_its_end(paths: dict[str, str]) -> None:
    if directory_of(paths, "memory") is None:
        pytest.skip("the memory controller is not in a v1 tree")
    with inside(paths, "sleep", "100") as process:
        record = record_of("a", process.pid, cgroup=paths)
        seen: list[dict[str, Any]] = []
        counted_twice, starved = threading.Event(), threading.Event()

        def follow() -> None:
            for event in events.follow(record, 0.05):
                seen.append(event)
                starved.set() if event["type"] == "oom" else None
                counted_twice.set() if len(seen) > 1 else None

        thread = threading.Thread(target=follow)
        thread.start()
        assert counted_twice.wait(10)
        with inside(paths, "sh", "-c", EATER) as eater:
            assert eater.wait() == -signal.SIGKILL
        assert starved.wait(10)
        process.kill()
        thread.join(10)
        assert not thread.is_alive()
    assert seen[0]["type"] == "stats"
    assert {"type": "oom", "id": "a"} in seen
    with pytest.raises(WrongStatus, match="is not running"):
        events.counters(record)
