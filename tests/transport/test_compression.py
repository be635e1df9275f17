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
    choose_level,
)

MAX = 1 << 20
NOISE = random.Random(1).randbytes(100)
rates = st.floats(1e3, 1e11)
ratios = st.floats(0.0001, 1.0)
conditions = st.builds(Conditions, link_rate=rates, compressor_rate=rates, ratio=ratios)
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


def test_random_bytes_go_raw_and_zeroes_are_compressed_whatever_the_link() -> None:
    compressor = Compressor()
    for level in LEVELS:
        assert compressor.level_for(os.urandom(256 * 1024), level) == 0
        assert compressor.level_for(bytes(256 * 1024), level) == max(1, level)
    assert len(compressor.compress(bytes(256 * 1024), 1) or b"") < 100


@given(conditions, st.floats(1.0, 1000.0))
def test_a_slower_link_never_gets_a_lower_level(now: Conditions, slower: float) -> None:
    then = Conditions(now.link_rate / slower, now.compressor_rate, now.ratio)
    assert choose_level(then) >= choose_level(now)


@given(conditions, st.floats(1.0, 1000.0))
def test_a_faster_compressor_never_gets_a_lower_level(now: Conditions, faster: float) -> None:
    then = Conditions(now.link_rate, now.compressor_rate * faster, now.ratio)
    assert choose_level(then) >= choose_level(now)


@given(conditions)
def test_the_level_never_makes_things_slower_than_sending_raw(now: Conditions) -> None:
    level = choose_level(now)
    assert level in LEVELS
    if level == 1:
        through = min(now.compressor_rate, now.link_rate / now.ratio)
        assert through >= now.link_rate * 0.999


def test_a_link_faster_than_the_compressor_gets_raw_bytes_and_a_modem_the_best_there_is() -> None:
    assert choose_level(Conditions(10e9, 0.5e9, 0.5)) == 0
    assert choose_level(Conditions(100e6, 0.5e9, 0.5)) in {1, 3}
    assert choose_level(Conditions(10e3, 0.5e9, 0.5)) == 9


@given(st.lists(st.floats(1e5, 1e9), min_size=1, max_size=50))
def test_a_measured_rate_stays_between_what_was_measured(measured: list[float]) -> None:
    rate = Rate(measured[0], 1.0, half_life=0.5)
    for value in measured:
        rate.add(value * 0.01, 0.01)
    assert min(measured) * 0.999 <= rate.value <= max(measured) * 1.001


def test_the_meter_forgets_its_guesses_within_a_second_of_work() -> None:
    meter = Meter(workers=1)
    for _ in range(100):
        meter.sent(20_000, 0.01)
        meter.compressed(1, 4_000_000, 1_000_000, 0.01)
    assert 1.9e6 < meter.conditions.link_rate < 4e6
    assert 3.5e8 < meter.conditions.compressor_rate < 4.2e8
    assert 0.24 < meter.conditions.ratio < 0.26
    assert meter.level == 9
