"""Which strategy is taken, and when the passes over a running container end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.mappings import Amounts
from migrate.checkpoint.memory_copy import Pass
from migrate.errors import Refused
from migrate.live.strategy import (
    LARGE_BYTES,
    MOST_BYTES,
    MOST_PASSES,
    SMALL_BYTES,
    SMALL_PAGES,
    STRATEGIES,
    Situation,
    choose,
    goes_on,
)

counts = st.one_of(st.integers(0, 2 * SMALL_PAGES), st.integers(0, 1 << 30))


def passes(*pages: int) -> list[Pass]:
    return [Pass(pages=each, sent_bytes=each * 4096, seconds=0.1) for each in pages]


def number_of(found: st.DataObject) -> list[int]:
    """Return what the passes found until they ended."""
    history: list[int] = []
    while goes_on(passes(*history)):
        history.append(found.draw(counts))
        assert len(history) <= MOST_PASSES
    return history


@given(st.data())
def test_the_passes_end_whatever_they_find(found: st.DataObject) -> None:
    history = number_of(found)
    assert len(history) >= 2, "what was written during the first one is never left to the freeze"
    # None came after one that left little.
    assert all(pages > SMALL_PAGES for pages in history[1:-1])


@given(st.lists(counts, min_size=MOST_PASSES, max_size=3 * MOST_PASSES))
def test_they_do_not_begin_again(history: list[int]) -> None:
    assert not goes_on(passes(*history))


def test_they_go_on_while_they_gain_and_no_longer() -> None:
    gaining = [100_000]
    while gaining[-1] > 2 * SMALL_PAGES:
        gaining.append(gaining[-1] // 2)
        assert goes_on(passes(1_000_000, *gaining))
    assert not goes_on(passes(1_000_000, *gaining, SMALL_PAGES))
    steady = passes(1_000_000, 90_000, 90_000, 90_000)
    assert goes_on(steady)
    assert not goes_on(passes(1_000_000, 90_000, 90_000, 90_000, 90_000))
    # One that gained much among those that did not begins the count anew.
    assert goes_on(passes(1_000_000, 90_000, 90_000, 40_000, 40_000))


def test_the_first_pass_which_finds_everything_is_no_measure() -> None:
    assert goes_on(passes(SMALL_PAGES // 2))
    assert goes_on([])
    assert not goes_on(passes(1_000_000, SMALL_PAGES))


def situation(
    lazy: int = SMALL_BYTES, other: int = 0, *, is_paused: bool = False, obstacle: str = ""
) -> Situation:
    amounts = Amounts(lazy_bytes=lazy, other_bytes=other)
    return Situation(amounts=amounts, is_paused=is_paused, obstacle=obstacle)


@pytest.mark.parametrize(
    ("given_situation", "chosen"),
    [
        (situation(), "pre-copy"),
        (situation(SMALL_BYTES - 1), "stop-copy"),
        (situation(1 << 40, LARGE_BYTES), "pre-copy"),
        (situation(1 << 40, LARGE_BYTES + 1), "stop-copy"),
        (situation(1 << 40, is_paused=True), "stop-copy"),
        (situation(1 << 40, obstacle="pipes are too small"), "stop-copy"),
    ],
)
def test_auto_takes_what_fits(given_situation: Situation, chosen: str) -> None:
    assert choose("auto", given_situation) == chosen


sizes = st.integers(0, 1 << 45)
situations = st.builds(
    lambda lazy, other, is_paused, obstacle: situation(
        lazy, other, is_paused=is_paused, obstacle=obstacle
    ),
    sizes,
    sizes,
    st.booleans(),
    st.sampled_from(["", "pipes are too small"]),
)


@given(situations)
def test_what_is_wanted_is_taken_or_refused_with_the_reason(given_situation: Situation) -> None:
    assert choose("auto", given_situation) in STRATEGIES[1:]
    assert choose("stop-copy", given_situation) == "stop-copy"
    if given_situation.amounts.other_bytes > MOST_BYTES:
        return  # see below
    if not given_situation.obstacle:
        assert choose("pre-copy", given_situation) == "pre-copy"
        return
    with pytest.raises(Refused, match="pipes are too small") as refusal:
        choose("pre-copy", given_situation)
    assert "--strategy stop-copy" in refusal.value.hint


def test_pre_copy_is_refused_where_most_memory_cannot_follow() -> None:
    shared = Amounts(lazy_bytes=0, other_bytes=MOST_BYTES + 1)
    situation = Situation(amounts=shared, is_paused=False, obstacle="")
    with pytest.raises(Refused, match="cannot follow page by page"):
        choose("pre-copy", situation)
    assert choose("auto", situation) == "stop-copy"
