"""`migrate live --dry-run`: what a migration would be like."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.events import Foretold
from migrate.live.foretelling import Measured, sum_up
from migrate.live.strategy import MOST_PASSES
from tests.live.moving import Moved, moved
from tests.support.hosts import Site

MEMORY = ["--memory", "32", "--mix", "random", "--dirty", "10"]


@pytest.fixture
def container(hosts: Site) -> Iterator[Moved]:
    with moved(hosts) as made:
        made.create(MEMORY)
        yield made


def of(memory_bytes: int, written_bytes: float, link_bytes: float) -> Foretold:
    measured = Measured(
        memory_bytes=memory_bytes,
        written_bytes=written_bytes,
        link_bytes=link_bytes,
        files_bytes=0,
    )
    return sum_up("c", "host2", "pre-copy", measured)


@given(
    st.integers(0, 1 << 40),
    st.floats(0, 1 << 34),
    st.floats(1, 1 << 34),
)
def test_it_comes_to_an_end_whatever_was_measured(memory: int, written: float, link: float) -> None:
    found = of(memory, written, link)
    assert 2 <= found.passes <= MOST_PASSES
    assert 0 < found.downtime_seconds <= found.total_seconds


def test_downtime_does_not_grow_with_memory_that_nobody_writes() -> None:
    assert of(4 << 30, 0, 200e6).downtime_seconds < of(1 << 30, 0, 200e6).downtime_seconds + 0.2
    assert of(4 << 30, 0, 200e6).total_seconds > 15


def test_who_writes_faster_than_the_link_takes_stands_still() -> None:
    assert of(1 << 30, 400e6, 200e6).downtime_seconds > 2
    assert of(1 << 30, 20e6, 200e6).downtime_seconds < 1


def test_nothing_is_moved_or_left_and_the_numbers_are_of_this_container(container: Moved) -> None:
    done = container.live("--dry-run", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = next(line for line in lines if "downtime_seconds" in line)
    assert found["container"] == "moved"
    assert found["strategy"] == "pre-copy"
    assert found["memory_bytes"] >= 32 << 20
    assert found["written_bytes_per_second"] > 1 << 20  # ten pages a millisecond, some twice
    assert found["link_bytes_per_second"] > 0
    container.must_run_on("host1")


def test_people_read_it(container: Moved) -> None:
    done = container.live("--dry-run", "--strategy", "stop-copy")
    assert "moved would move to host2 by stop-copy" in done.stdout
    assert "downtime   about" in done.stdout
    container.must_run_on("host1")


def test_what_would_be_refused_is(container: Moved) -> None:
    container.host2.run(["mkdir", "-p", "/srv/moved/rootfs"])
    container.host2.run(["touch", "/srv/moved/rootfs/theirs"])
    done = container.live("--dry-run", check=False)
    assert done.returncode == 1
    assert "/srv/moved" in done.stderr
    container.must_run_on("host1")
