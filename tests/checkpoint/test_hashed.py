"""Which pages differ from what was sent, by their digests."""

from __future__ import annotations

import os
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.hashed import Hashes
from tests.checkpoint.scribbling import PAGE

Run = tuple[int, int]

contents = st.sampled_from([bytes(PAGE), b"\1" * PAGE, b"\2" * PAGE])
# Around the edge of a chunk of 512 pages.
layouts = st.lists(st.tuples(st.integers(505, 520), st.lists(contents, max_size=4)), max_size=4)


@given(st.lists(layouts, max_size=4), st.integers(505, 520))
def test_what_differs_is_found_and_nothing_else(
    rounds: list[list[tuple[int, list[bytes]]]], forgotten: int
) -> None:
    hashes = Hashes(os.getpid())
    sent: dict[int, bytes] = {}
    for given_runs in rounds:
        runs, parts, now = [], [], dict[int, bytes]()
        at = 0
        for earliest, pages in sorted(given_runs, key=lambda each: each[0]):
            first = max(earliest, at)
            at = first + len(pages)
            runs.append((first * PAGE, len(pages)))
            parts += pages
            now |= dict(enumerate(pages, first))
        found, kept = hashes.changed(runs, memoryview(b"".join(parts)))
        seen = [
            number
            for address, count in found
            for number in range(address // PAGE, address // PAGE + count)
        ]
        assert seen == [number for number, page in sorted(now.items()) if sent.get(number) != page]
        assert [bytes(page) for page in kept] == [now[number] for number in seen]
        assert all(a + n * PAGE < b for (a, n), (b, _) in pairwise(found))
        sent |= now
        hashes.forget(forgotten * PAGE, (forgotten + 2) * PAGE)
        for number in (forgotten, forgotten + 1):
            sent.pop(number, None)
    hashes.close()


def test_every_page_that_is_there_counts_as_written() -> None:
    area = bytearray(os.urandom(64 * PAGE))
    found = Hashes(os.getpid()).written()
    assert sum(end - start for start, end in found) >= len(area)
