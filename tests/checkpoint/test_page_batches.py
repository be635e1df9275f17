"""Batches of pages: out as they came in, however they were cut, and nothing else."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.page_batches import (
    END,
    FORGET,
    HEAD,
    IS_ZERO,
    MOST_BYTES,
    MOST_RUNS,
    PAGES,
    RUN,
    Batch,
    Decoder,
    encode,
    without_zeros,
)
from migrate.errors import ImageError

PAGE = 4096
Whole = tuple[int, int, tuple[tuple[int, int], ...], bytes]


def page(number: int) -> bytes:
    """Return a page that tells its number; 0 is one of zeros."""
    return struct.pack("<Q", number) * (PAGE // 8)


runs = st.lists(
    st.tuples(st.integers(0, 1 << 34), st.integers(0, 3), st.sampled_from([0, IS_ZERO])), max_size=6
)


@st.composite
def batches(draw: st.DrawFn) -> Whole:
    """Draw a batch, with the contents it needs."""
    kind, process = (
        draw(st.sampled_from([PAGES, PAGES, FORGET, END])),
        draw(st.integers(0, 1 << 31)),
    )
    if kind != PAGES:
        return kind, process, (), b""
    chosen = tuple((first * PAGE | zero, count) for first, count, zero in draw(runs))
    wanted = sum(count for address, count in chosen if not address & IS_ZERO)
    return kind, process, chosen, b"".join(map(page, range(1, wanted + 1)))


def whole(batch: Batch) -> Whole:
    return batch.kind, batch.process, tuple(batch.runs), bytes(batch.contents)


@given(st.lists(batches(), max_size=6), st.lists(st.integers(0, 1 << 30), max_size=12), st.data())
def test_any_cut_of_a_stream_is_the_same_stream(
    sent: list[Whole], cuts: list[int], data: st.DataObject
) -> None:
    stream = b"".join(encode(kind, process, rs) + rest for kind, process, rs, rest in sent)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    kind = data.draw(st.sampled_from([bytes, bytearray, memoryview]))
    decoder = Decoder()
    seen = []
    for begin, end in pairwise(places):
        seen += [whole(batch) for batch in decoder.feed(kind(stream[begin:end]))]
    assert seen == sent
    assert decoder.is_between


@given(st.lists(batches(), min_size=1, max_size=2), st.integers(1, 1 << 30))
def test_a_stream_that_ends_within_a_batch_is_known_by_that(sent: list[Whole], less: int) -> None:
    *before, last = sent
    kind, process, rs, rest = last
    text = encode(kind, process, rs) + rest
    stream = b"".join(encode(k, p, r) + c for k, p, r, c in before) + text[: less % len(text)]
    decoder = Decoder()
    assert [whole(batch) for batch in decoder.feed(stream)] == before
    assert decoder.is_between == (less % len(text) == 0)


def test_byte_by_byte_it_is_the_same_too() -> None:
    sent: list[Whole] = [
        (PAGES, 1, ((PAGE, 2), (9 * PAGE | IS_ZERO, 5)), page(1) + page(2)),
        (FORGET, 1, (), b""),
        (END, 0, (), b""),
    ]
    decoder = Decoder()
    seen = []
    for kind, process, rs, rest in sent:
        for byte in encode(kind, process, rs) + rest:
            seen += [whole(batch) for batch in decoder.feed(bytes([byte]))]
    assert seen == sent


# --- zeros ---


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.sampled_from(["zero", "late", "full"]))),
        max_size=6,
    )
)
def test_pages_of_zeros_are_marked_and_all_others_are_kept_in_their_order(
    layout: list[tuple[int, list[str]]],
) -> None:
    contents: list[bytes] = []
    given_runs: list[tuple[int, int]] = []
    expected: dict[int, bytes] = {}
    at = 0
    late = bytes(PAGE - 1) + b"\1"  # whose first word says nothing
    for gap, kinds in layout:
        if not kinds:
            continue
        at += gap * PAGE
        given_runs.append((at, len(kinds)))
        for kind in kinds:
            content = {"zero": bytes(PAGE), "late": late, "full": page(len(contents) + 1)}[kind]
            contents.append(content)
            expected[at] = content
            at += PAGE
    marked, kept = without_zeros(given_runs, memoryview(b"".join(contents)))
    left = b"".join(kept)
    seen: dict[int, bytes] = {}
    for address, count in marked:
        assert count > 0
        for number in range(count):
            place = (address & ~IS_ZERO) + number * PAGE
            assert place not in seen
            if address & IS_ZERO:
                seen[place] = bytes(PAGE)
                assert expected[place] == bytes(PAGE)
            else:
                seen[place], left = left[:PAGE], left[PAGE:]
                assert seen[place] != bytes(PAGE)
    assert not left
    assert seen == expected


# --- what is no such stream ---


def fed(*chunks: bytes) -> Iterator[Batch]:
    decoder = Decoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)


BAD = {
    "an unknown kind": HEAD.pack(9, 0, 1),
    "no kind": HEAD.pack(0, 0, 1),
    "too many runs": HEAD.pack(PAGES, MOST_RUNS + 1, 1),
    "as many runs as there can be": HEAD.pack(PAGES, 0xFFFFFFFF, 1),
    "an end with runs": HEAD.pack(END, 1, 1),
    "something to forget with runs": HEAD.pack(FORGET, 1, 1),
    "an address within a page": encode(PAGES, 1, [(PAGE + 8, 1)]),
    "zeros within a page": encode(PAGES, 1, [(PAGE + 3, 1)]),
    "an address of the kernel's": encode(PAGES, 1, [(-PAGE % (1 << 64), 1)]),
    "pages up to there": encode(PAGES, 1, [((1 << 63) - 2 * PAGE, 4)]),
    "a run that is too large": encode(PAGES, 1, [(PAGE, 0xFFFFFFFF)]),
    "a run of zeros that is too large": encode(PAGES, 1, [(PAGE | IS_ZERO, 0xFFFFFFFF)]),
    "runs that are too large": encode(PAGES, 1, [(PAGE, 200), (PAGE << 10, 100)]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_stream_is_refused_and_nothing_is_allocated_for_it(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="memory stream has"):
            list(fed(BAD[name] + bytes(64)))
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_noise_is_refused_or_waited_on(noise: bytes, cut: int) -> None:
    with contextlib.suppress(ImageError):
        list(fed(noise[:cut], noise[cut:]))


@given(batches(), st.integers(0, 1 << 30), st.integers(1, 255))
def test_a_damaged_byte_is_refused_or_gives_batches_of_a_bounded_size(
    sent: Whole, place: int, change: int
) -> None:
    kind, process, rs, rest = sent
    stream = bytearray(encode(kind, process, rs) + rest)
    stream[place % len(stream)] ^= change
    with contextlib.suppress(ImageError):
        for batch in fed(bytes(stream) + bytes(PAGE)):
            assert len(batch.contents) <= MOST_BYTES
            assert len(batch.runs) <= MOST_RUNS
            assert all(count * PAGE <= MOST_BYTES for _, count in batch.runs)


def test_a_stream_that_never_completes_a_batch_is_kept_no_longer_than_one_can_be() -> None:
    """The largest: all the runs, and all the contents."""
    first = [(PAGE, MOST_BYTES // PAGE)]
    rs = first + [(PAGE << 20, 0)] * (MOST_RUNS - 1)
    text = encode(PAGES, 1, rs) + random.Random(1).randbytes(MOST_BYTES)
    assert len(text) == HEAD.size + MOST_RUNS * RUN.size + MOST_BYTES
    (batch,) = fed(*(text[at : at + 65536] for at in range(0, len(text), 65536)))
    assert bytes(batch.contents) == text[-MOST_BYTES:]
