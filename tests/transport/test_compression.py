"""Chunks survive compression, damage does not, and the level follows the link."""

from __future__ import annotations

import os
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import ProtocolError
from migrate.transport.compression import (
    LEVELS,
    Compressor,
    Conditions,
    Expander,
    Meter,
    Rate,
    Yield,
    choose_level,
)

MAX = 1 << 20
NOISE = random.Random(1).randbytes(100)
rates = st.floats(1e3, 1e11)
ratios = st.floats(0.0001, 1.0)


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    """More effort is slower and never larger, as it is for every real compressor."""
    count = len(LEVELS) - 1
    speeds = sorted(draw(st.lists(rates, min_size=count, max_size=count)), reverse=True)
    sizes = sorted(draw(st.lists(ratios, min_size=count, max_size=count)), reverse=True)
    levels = {level: Yield(*found) for level, *found in zip(LEVELS[1:], speeds, sizes, strict=True)}
    return Conditions(draw(rates), levels)


def through(now: Conditions, level: int) -> float:
    if level == 0:
        return now.link_rate
    return min(now.levels[level].rate, now.link_rate / now.levels[level].ratio)


def memory(rate: float, ratio: float) -> dict[int, Yield]:
    """Something like memory, by its speed and size at level 1."""
    meter = Meter(workers=1)
    for _ in range(1000):
        meter.compressed(1, int(rate * 0.01), int(rate * ratio * 0.01), 0.01)
    return dict(meter.conditions.levels)


chunks = st.one_of(
    st.binary(min_size=1, max_size=5000),
    st.builds(
        lambda piece, count: piece * count, st.binary(min_size=1, max_size=50), st.integers(1, 4000)
    ),
)


@given(chunks, st.sampled_from([level for level in LEVELS if level]))
def test_a_chunk_comes_back_at_every_level(chunk: bytes, level: int) -> None:
    frame = Compressor().compress(chunk, level)
    if frame is not None:
        assert len(frame) < len(chunk)
        assert Expander(MAX).expand(frame, len(chunk)) == chunk


@given(st.integers(1, 2000), st.data())
def test_a_frame_cut_anywhere_is_refused(words: int, data: st.DataObject) -> None:
    chunk = b"some memory, twice " * words + NOISE
    frame = Compressor().compress(chunk, 3)
    if frame is not None:
        cut = data.draw(st.integers(0, len(frame) - 1))
        with pytest.raises(ProtocolError):
            Expander(MAX).expand(frame[:cut], len(chunk))


@given(st.integers(2, 2000), st.data())
def test_a_frame_with_one_flipped_bit_is_refused(words: int, data: st.DataObject) -> None:
    chunk = b"some memory, twice " * words + NOISE
    frame = bytearray(Compressor().compress(chunk, 1) or chunk)
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    try:
        # A bit that zstandard does not look at may be any; the bytes are not.
        assert Expander(MAX).expand(bytes(frame), len(chunk)) == chunk
    except ProtocolError:
        return


def test_a_frame_that_says_less_than_it_holds_is_refused_before_it_is_expanded() -> None:
    bomb = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 30))
    assert len(bomb) < 100_000
    with pytest.raises(ProtocolError, match="1073741824 bytes where 4096"):
        Expander(MAX).expand(bomb, 4096)
    with pytest.raises(ProtocolError):
        Expander(MAX).expand(bomb, 1 << 30)


def test_a_frame_without_its_size_its_checksum_or_followed_by_more_is_refused() -> None:
    chunk = bytes(100_000)
    unsized = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False)
    unchecked = zstandard.ZstdCompressor(write_checksum=False)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(chunk)
    for bad in (
        unsized.compress(chunk),
        unchecked.compress(chunk),
        frame + b"x",
        frame + frame,
        b"",
    ):
        with pytest.raises(ProtocolError):
            Expander(MAX).expand(bad, len(chunk))


def test_a_compressor_that_gains_nothing_looks_before_it_tries_again() -> None:
    compressor = Compressor()
    noise = os.urandom(256 * 1024)
    half = os.urandom(128 * 1024) + bytes(128 * 1024)
    assert compressor.compress(half, 1) is not None
    assert compressor.level_for(noise, 1) == 1, "while it pays, nothing is looked at"
    assert compressor.compress(noise, 1) is None
    assert compressor.level_for(noise, 1) == 0


def test_random_bytes_go_raw_and_zeroes_are_compressed_whatever_the_link() -> None:
    compressor = Compressor()
    for level in LEVELS:
        assert compressor.level_for(os.urandom(256 * 1024), level) == 0
        assert compressor.level_for(bytes(256 * 1024), level) == (level or -3)
    assert len(compressor.compress(bytes(256 * 1024), 1) or b"") < 100


@given(conditions(), st.floats(1.0, 1000.0))
def test_a_slower_link_never_gets_less_effort(now: Conditions, slower: float) -> None:
    then = Conditions(now.link_rate / slower, now.levels)
    assert LEVELS.index(choose_level(then)) >= LEVELS.index(choose_level(now))


@given(conditions())
def test_no_other_level_would_be_much_faster_and_no_lower_one_nearly_as_fast(
    now: Conditions,
) -> None:
    level = choose_level(now)
    best = max(through(now, other) for other in LEVELS)
    assert through(now, level) >= 0.97 * best
    for lower in LEVELS[: LEVELS.index(level)]:
        assert through(now, lower) < 0.97 * best


def test_a_link_faster_than_the_compressor_gets_raw_bytes_and_a_modem_the_best_there_is() -> None:
    levels = memory(0.5e9, 0.5)
    assert choose_level(Conditions(10e9, levels)) == 0
    assert choose_level(Conditions(500e6, levels)) == -3
    assert choose_level(Conditions(100e6, levels)) in {1, 3}
    assert choose_level(Conditions(10e6, levels)) == 6
    assert choose_level(Conditions(1e6, memory(0.5e9, 0.3))) == 6


@given(st.lists(st.floats(1e5, 1e9), min_size=1, max_size=50))
def test_a_measured_rate_stays_between_what_was_measured(measured: list[float]) -> None:
    rate = Rate(measured[0], 1.0, half_life=0.5)
    for value in measured:
        rate.add(value * 0.01, 0.01)
    assert min(measured) * 0.999 <= rate.value <= max(measured) * 1.001


def test_the_meter_forgets_its_guesses_within_a_second_of_work() -> None:
    meter = Meter(workers=2)
    for _ in range(100):
        meter.sent(20_000, 0.01)
        meter.compressed(1, 4_000_000, 1_000_000, 0.01)
        meter.next_level()
    found = meter.conditions.levels[1]
    assert 1.9e6 < meter.link_rate < 4e6
    assert 7e8 < found.rate < 8.4e8
    assert 0.24 < found.ratio < 0.26
    assert meter.level in {3, 6, 9}


def test_the_meter_tries_the_neighbours_of_its_level_and_believes_what_it_sees() -> None:
    meter = Meter(workers=1)
    tried = set()
    for _ in range(2000):
        level = meter.next_level()
        tried.add(level)
        meter.sent(100_000, 0.001)
        # Data of which every level makes the same: less effort is as good.
        if level:
            meter.compressed(level, 500_000, 190_000, 0.0005 / (2 if level == -3 else 1))
    assert meter.level == -3
    assert {-3, 1} <= tried <= {-3, 1, 3, 6}
