"""One chunk in, one chunk out, and which level is worth it.

Lives here: the zstandard frame that a DATA frame may carry, its strict reader,
and the policy that picks a level from what was measured. Must not live here:
threads, frames' headers. `migrate.transport`, and `migrate.live` for archives.

Each chunk is a zstandard frame of its own, with its content size and checksum:
a chunk can be checked before it is expanded, and none depends on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import zstandard

from migrate.errors import ProtocolError

Buffer = bytes | bytearray | memoryview

LEVELS = (0, -3, 1, 3, 6, 9)
"""What the policy chooses from, the effort rising; 0 sends the bytes as they are."""

# How the levels relate to level 1 on heaps, binaries and page mixes: speed, and
# size of what comes out. They stand in for a level until it has been measured.
_SPEED_OF = {-3: 1.4, 1: 1.0, 3: 0.65, 6: 0.2, 9: 0.14}
_SIZE_OF = {-3: 1.15, 1: 1.0, 3: 0.94, 6: 0.90, 9: 0.89}

# What a higher level must gain to be worth its processor time.
_GAIN = 0.03

# A sample that stays above this share of its size is not worth compressing;
# one below the other is compressed even where the link is faster than zstd,
# because zstd takes zeroes at several gigabytes a second.
_INCOMPRESSIBLE = 0.92
_SPARSE = 0.20

_SAMPLES = 3
_SAMPLE_BYTES = 4096

# Work after which a measurement counts half.
_HALF_LIFE_SECONDS = 0.5
_HALF_LIFE_BYTES = 8e6

# The level is reconsidered after so many chunks.
_REVIEW_EVERY = 2

# One chunk in so many goes at a neighbouring level, so that what is known of it
# does not stay what it was an hour ago.
_TRY_EVERY = 32


@dataclass(frozen=True, slots=True)
class Yield:
    """What a level makes of the data.

    Attributes:
        rate: raw bytes a second through all compressors.
        ratio: bytes that come out for each that goes in.
    """

    rate: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the policy decides from.

    Attributes:
        link_rate: bytes a second that the link takes.
        levels: every level but 0.
    """

    link_rate: float
    levels: Mapping[int, Yield]


def choose_level(conditions: Conditions) -> int:
    """Return the level of least effort that gets nearly the most bytes through.

    Compressing and sending overlap, so a level is as fast as the slower of the two.
    """
    throughput = {0: conditions.link_rate}
    for level, found in conditions.levels.items():
        throughput[level] = min(found.rate, conditions.link_rate / max(found.ratio, 1e-9))
    enough = max(throughput.values()) * (1 - _GAIN)
    return next(level for level in LEVELS if throughput[level] >= enough)


class Rate:
    """One amount per another, such as bytes a second, the recent past counting most.

    Args:
        amount: what to start from.
        per: the amount it is measured against.
        half_life: the amount of `per` after which what was counted counts half.
    """

    def __init__(self, amount: float, per: float, half_life: float) -> None:
        self._amount = amount
        self._per = per
        self._half_life = half_life

    def add(self, amount: float, per: float) -> None:
        """Count `amount` in `per`; seconds of waiting for work are not to be counted."""
        keep = 0.5 ** (per / self._half_life)
        self._amount = self._amount * keep + amount
        self._per = self._per * keep + per

    @property
    def value(self) -> float:
        """The rate now."""
        return self._amount / max(self._per, 1e-9)


class Meter:
    """Follows link and compressors, and names the level to use next.

    Not locked: the caller holds the link's lock.

    Args:
        workers: compressor threads that run side by side.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        # Guesses that the first tenth of a second of real work outweighs: a
        # link of 300 MB/s, zstd at 500 MB/s halving what it gets.
        self._link = Rate(3e6, 0.01, _HALF_LIFE_SECONDS)
        self._rates = {1: Rate(5e6, 0.01, _HALF_LIFE_SECONDS)}
        self._ratios = {1: Rate(0.5e6, 1e6, _HALF_LIFE_BYTES)}
        self._chunks = 0
        self.level = choose_level(self.conditions)
        """The level that suits the data on average."""

    def sent(self, wire_bytes: int, seconds: float) -> None:
        """Count a frame that the channel took."""
        self._link.add(wire_bytes, seconds)

    def compressed(self, level: int, raw_bytes: int, wire_bytes: int, seconds: float) -> None:
        """Count a chunk that went through a compressor at a level other than 0."""
        if level not in self._rates:
            guess = self._guess(level)
            speed = guess.rate / self._workers
            self._rates[level] = Rate(speed * 0.001, 0.001, _HALF_LIFE_SECONDS)
            self._ratios[level] = Rate(guess.ratio * 1e5, 1e5, _HALF_LIFE_BYTES)
        self._rates[level].add(raw_bytes, seconds)
        self._ratios[level].add(wire_bytes, raw_bytes)

    def _guess(self, level: int) -> Yield:
        """Return what to expect of a level, from the measured one nearest to it."""
        place = LEVELS.index(level)
        nearest = min(self._rates, key=lambda known: abs(LEVELS.index(known) - place))
        return Yield(
            rate=self._rates[nearest].value * self._workers * _SPEED_OF[level] / _SPEED_OF[nearest],
            ratio=min(1.0, self._ratios[nearest].value * _SIZE_OF[level] / _SIZE_OF[nearest]),
        )

    @property
    def link_rate(self) -> float:
        """Bytes a second that the link takes."""
        return self._link.value

    @property
    def conditions(self) -> Conditions:
        """What was measured so far, and guesses for the rest."""
        return Conditions(self.link_rate, {level: self._guess(level) for level in _SPEED_OF})

    def next_level(self) -> int:
        """Return the level for the next chunk."""
        self._chunks += 1
        if self._chunks % _REVIEW_EVERY == 0:
            self.level = choose_level(self.conditions)
        if self._chunks % _TRY_EVERY:
            return self.level
        step = 1 if self._chunks % (2 * _TRY_EVERY) else -1
        place = LEVELS.index(self.level) + step
        # Level 0 has nothing to measure but the link.
        return LEVELS[min(max(place, 1), len(LEVELS) - 1)]


class Compressor:
    """Compresses chunks; belongs to one thread."""

    def __init__(self) -> None:
        self._by_level: dict[int, zstandard.ZstdCompressor] = {}
        self._gained = False

    def _at(self, level: int) -> zstandard.ZstdCompressor:
        compressor = self._by_level.get(level)
        if compressor is None:
            compressor = zstandard.ZstdCompressor(
                level=level, write_checksum=True, write_content_size=True
            )
            self._by_level[level] = compressor
        return compressor

    def expected_ratio(self, chunk: Buffer) -> float:
        """Return how small a few samples of `chunk` get at level 1, as a share."""
        view = memoryview(chunk)
        if len(view) <= _SAMPLES * _SAMPLE_BYTES:
            return 0.5
        step = (len(view) - _SAMPLE_BYTES) // (_SAMPLES - 1)
        sample = b"".join(view[i * step : i * step + _SAMPLE_BYTES] for i in range(_SAMPLES))
        return len(self._at(1).compress(sample)) / len(sample)

    def level_for(self, chunk: Buffer, level: int) -> int:
        """Return the level for this chunk where `level` is right on average.

        While compressing pays, chunks are not looked at beforehand.
        """
        if level and self._gained:
            return level
        ratio = self.expected_ratio(chunk)
        if ratio > _INCOMPRESSIBLE:
            return 0
        if ratio < _SPARSE:
            return level or LEVELS[1]
        return level

    def compress(self, chunk: Buffer, level: int) -> bytes | None:
        """Return `chunk` as one zstandard frame, or None where that is hardly smaller."""
        frame = self._at(level).compress(chunk)
        self._gained = len(frame) < len(chunk) * _INCOMPRESSIBLE
        return frame if self._gained else None


class Expander:
    """Expands chunks that a peer sent; belongs to one thread."""

    def __init__(self, max_chunk_bytes: int) -> None:
        self._max_chunk_bytes = max_chunk_bytes
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=max(max_chunk_bytes, 1024))

    def expand(self, frame: Buffer, raw_bytes: int) -> bytes:
        """Return the chunk in `frame`.

        What the frame says of itself is compared with what the peer announced
        before anything of that size is allocated; zstandard then refuses a
        frame that yields more or less than it says.

        Raises:
            ProtocolError: truncated, damaged, without a checksum, followed by
                more data, or not `raw_bytes` long.
        """
        try:
            parameters = zstandard.get_frame_parameters(frame)
            if not parameters.has_checksum:
                raise ProtocolError("compressed chunk carries no checksum")
            if parameters.content_size != raw_bytes or raw_bytes > self._max_chunk_bytes:
                raise ProtocolError(
                    f"compressed chunk of {parameters.content_size} bytes "
                    f"where {raw_bytes} were announced"
                )
            chunk = self._decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ProtocolError(f"compressed chunk is damaged: {error}") from error
        if len(chunk) != raw_bytes:
            raise ProtocolError(
                f"compressed chunk yields {len(chunk)} bytes where {raw_bytes} were announced"
            )
        return chunk
