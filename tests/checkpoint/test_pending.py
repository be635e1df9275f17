"""What is still to be filled follows a process's memory, page by page."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.pending import Pending

PAGE = 4096
PAGES = 64

spans = st.lists(st.integers(0, PAGES - 1), unique=True, max_size=PAGES)
ranges = st.tuples(st.integers(0, PAGES), st.integers(0, PAGES))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("drop"), ranges),
        st.tuples(st.just("move"), ranges, st.integers(0, 2 * PAGES)),
        st.tuples(st.just("fill")),
    ),
    max_size=40,
)


def pending_of(pages: list[int]) -> tuple[Pending, dict[int, int]]:
    """Return runs of single and of joined pages, and the same page by page."""
    words = array("Q")
    for page in pages:
        if page % 3 and len(words) > 1 and words[-2] + words[-1] == page * PAGE:
            words[-1] += PAGE
        else:
            words.extend((page * PAGE, PAGE))
    return Pending(words), {page: page for page in pages}


def by_page(pending: Pending) -> dict[int, int]:
    """Return where each page's content is."""
    found: dict[int, int] = {}
    for run in pending:
        for at in range(0, run.size, PAGE):
            page = (run.start + at) // PAGE
            assert page not in found
            found[page] = (run.offset + at) // PAGE
    return found


def check(pending: Pending, wanted: dict[int, int]) -> None:
    """Compare everything that can be asked."""
    assert by_page(pending) == wanted
    assert list(pending) == sorted(pending)
    assert pending.size == len(wanted) * PAGE
    assert bool(pending) == bool(wanted)
    if wanted:
        assert pending.first().start == min(wanted) * PAGE
        assert pending.lowest_offset() == min(wanted.values()) * PAGE
    for page in range(3 * PAGES):
        run = pending.find(page * PAGE + 123)
        assert (run is not None) == (page in wanted)
        if run is not None:
            part = run.part(page * PAGE, (page + 1) * PAGE)
            assert (part.size, part.offset) == (PAGE, wanted[page] * PAGE)


@given(spans, steps)
def test_runs_are_what_pages_would_be(pages: list[int], todo: list[tuple[Any, ...]]) -> None:
    pending, wanted = pending_of(pages)
    check(pending, wanted)
    for step in todo:
        if step[0] == "fill":
            if wanted:
                lowest = min(wanted)
                pending.drop(lowest * PAGE, (lowest + 1) * PAGE)
                del wanted[lowest]
            continue
        first, count = step[1]
        size = count * PAGE
        if step[0] == "drop":
            pending.drop(first * PAGE, first * PAGE + size)
            wanted = {at: of for at, of in wanted.items() if not first <= at < first + count}
            continue
        target = first + count + step[2]
        pending.move(first * PAGE, target * PAGE, size)
        moved = {at: of for at, of in wanted.items() if first <= at < first + count}
        wanted = {
            at: of
            for at, of in wanted.items()
            if at not in moved and not target <= at < target + count
        }
        wanted |= {at + target - first: of for at, of in moved.items()}
    check(pending, wanted)
    copied = pending.copy()
    check(copied, wanted)
    copied.drop(0, 1 << 40)
    check(pending, wanted)
    check(copied, {})
