"""A set of pages is what a set of their numbers is."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.page_set import PageSet

PAGE = 4096
# Around the edges of a chunk of 512 pages, and far away.
pages = st.one_of(
    st.integers(0, 12), st.integers(505, 520), st.integers(1020, 1030), st.integers(0, 1 << 35)
)
spans = st.builds(
    lambda first, length: (first * PAGE, (first + length) * PAGE), pages, st.integers(0, 1100)
)
changes = st.lists(st.tuples(st.sampled_from(["add", "discard"]), spans), max_size=12)


def numbers(span: tuple[int, int]) -> set[int]:
    return set(range(span[0] // PAGE, span[1] // PAGE))


@given(changes, spans)
def test_it_has_what_was_put_in_and_not_taken_out(
    steps: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    made, model = PageSet(), set[int]()
    for what, span in steps:
        if what == "add":
            made.add(*span)
            model |= numbers(span)
        else:
            made.discard(*span)
            model -= numbers(span)
    within, missing = list(made.within(*asked)), list(made.missing(*asked))
    for found, wanted in ((within, numbers(asked) & model), (missing, numbers(asked) - model)):
        assert set[int]().union(*map(numbers, found)) == wanted
        # In rising order, none empty, and none that touches the one before it.
        assert all(start < end for start, end in found)
        assert all(first[1] < second[0] for first, second in pairwise(found))


@given(st.lists(spans, max_size=6), st.lists(spans, max_size=6))
def test_what_is_outside_of_spans(
    added: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    made, model = PageSet(), set[int]()
    for span in added:
        made.add(*span)
        model |= numbers(span)
    rising: list[tuple[int, int]] = []
    for start, end in sorted(asked):
        first = max(start, rising[-1][1]) if rising else start
        if first < end:
            rising.append((first, end))
    found = list(made.outside(rising))
    assert set[int]().union(*map(numbers, found)) == model.difference(*map(numbers, rising))
    assert all(first[1] < second[0] for first, second in pairwise(found))


def test_an_empty_set_has_nothing_and_everything_is_missing() -> None:
    made = PageSet()
    made.discard(0, 1 << 30)
    assert not list(made.within(0, 1 << 30))
    assert list(made.missing(0, 1 << 30)) == [(0, 1 << 30)]
    assert not list(made.missing(PAGE, PAGE))
