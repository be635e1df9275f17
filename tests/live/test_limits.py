"""What the user allows of a migration: `--max-downtime` and `--bandwidth`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from migrate.checkpoint.mappings import Amounts
from migrate.checkpoint.memory_copy import Pass
from migrate.errors import Refused
from migrate.live.strategy import (
    LISTING_SECONDS,
    OWN_SECONDS,
    Situation,
    choose,
    expected_downtime,
)
from tests.live.moving import Moved, moved
from tests.support.hosts import Site

GIB = 1 << 30
MEMORY = ["--memory", "32", "--mix", "random", "--dirty", "20"]


@pytest.fixture
def container(hosts: Site) -> Iterator[Moved]:
    with moved(hosts) as made:
        made.create(MEMORY)
        yield made


def one(sent_bytes: int, seconds: float) -> Pass:
    return Pass(pages=sent_bytes >> 12, sent_bytes=sent_bytes, seconds=seconds)


# --- what is expected ---


def test_what_is_written_during_a_pass_is_left_to_the_freeze() -> None:
    # 100 MB a second go over the link, 10 MB a second are written, the last pass took 1 s.
    history = [one(1_000_000_000, 10.0), one(100_000_000, 1.0)]
    left = expected_downtime(history, 0) - OWN_SECONDS
    assert left == pytest.approx(0.1, rel=0.01)


def test_memory_that_is_not_written_costs_its_listing() -> None:
    idle = [one(GIB, 10.0), one(0, 0.001)]
    assert expected_downtime(idle, 4 * GIB) == pytest.approx(OWN_SECONDS + 4 * LISTING_SECONDS)


def test_it_is_never_less_for_more_that_is_written() -> None:
    expected = [expected_downtime([one(GIB, 10.0), one(n << 20, 1.0)], 0) for n in range(0, 200, 9)]
    assert expected == sorted(expected)


def test_a_bound_needs_the_strategy_that_can_keep_it() -> None:
    few = Amounts(lazy_bytes=4096, other_bytes=0)
    bounded = Situation(amounts=few, is_paused=False, obstacle="", is_bounded=True)
    assert choose("auto", bounded) == "pre-copy"
    with pytest.raises(Refused, match=r"--max-downtime needs the strategy pre-copy$"):
        choose("stop-copy", bounded)
    hindered = Situation(amounts=few, is_paused=False, obstacle="no pipes", is_bounded=True)
    with pytest.raises(Refused, match="cannot be had: no pipes"):
        choose("auto", hindered)


# --- moving ---


def test_one_that_would_stand_still_for_too_long_stays(container: Moved) -> None:
    done = container.live("--max-downtime", "1ms", check=False)
    assert done.returncode == 1
    assert "it would stand still for about" in done.stderr
    assert "--max-downtime is 0.001 s" in done.stderr
    assert "FROZEN" not in done.stderr + done.stdout
    container.must_run_on("host1")


def test_one_that_would_not_moves(container: Moved) -> None:
    container.live("--max-downtime", "1h")
    container.must_run_on("host2")


def test_no_more_is_sent_than_is_allowed_while_it_runs(container: Moved) -> None:
    allowed = 16 << 20
    done = container.live("--strategy", "pre-copy", "--bandwidth", "16M", "--json")
    report = next(
        found["report"]
        for line in done.stdout.splitlines()
        if "report" in (found := json.loads(line))
    )
    assert report["bytes"]["memory"]["wire"] >= 32 << 20  # random: not to be compressed
    at = {each["mark"]: each["at_seconds"] for each in report["time_line"]}
    # Two seconds at least for 32 MiB; some of it may be on its way when the last is given.
    assert at["freeze"] - at["prepared"] > 28 * (1 << 20) / allowed
    container.must_run_on("host2")


@pytest.mark.parametrize("wrong", ["0", "fast", "10X", "-1M", "1.5M"])
def test_a_bandwidth_that_is_none_is_said(container: Moved, wrong: str) -> None:
    done = container.live("--bandwidth", wrong, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 2
    assert f"invalid value for --bandwidth: {wrong}" in done.stderr
