"""Which strategy a migration takes, and when copying a running container ends.

Lives here: pure functions from what was measured. Must not live here: measuring, doing.
`live` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from migrate.checkpoint.mappings import Amounts
from migrate.checkpoint.memory_copy import Pass
from migrate.errors import Refused

Strategy = Literal["auto", "stop-copy", "pre-copy"]
STRATEGIES: tuple[Strategy, ...] = ("auto", "stop-copy", "pre-copy")

# Less memory than this is sent in the time that watching it takes.
SMALL_BYTES = 16 << 20
# More than this that cannot follow page by page goes from CRIU into the link, or it would
# lie in memory twice here.
LARGE_BYTES = 64 << 20

# More than this does not fit among the images.
MOST_BYTES = 768 << 20

MOST_PASSES = 30
# Less than this is sent, frozen, in the time that CRIU's own work takes anyway.
SMALL_PAGES = 512
# A pass that finds more than this share of what the one before it found gains little.
LITTLE_GAIN = 0.75
MOST_PASSES_OF_LITTLE_GAIN = 3


# What CRIU's own work on both sides takes, and for each gibibyte that it lists.
OWN_SECONDS = 0.15
LISTING_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the user allows.

    Attributes:
        downtime_seconds: it must not stand still for longer; None for any time.
        bytes_per_second: over the link, while it runs; None for all there is.
    """

    downtime_seconds: float | None = None
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the choice depends on.

    Attributes:
        amounts: how much memory there is.
        is_paused: it is frozen already.
        obstacle: why CRIU cannot leave memory out of a dump here, or "".
        is_bounded: the downtime must be known before the freeze.
    """

    amounts: Amounts
    is_paused: bool
    obstacle: str
    is_bounded: bool = False


def choose(wanted: Strategy, situation: Situation) -> Strategy:
    """Return the strategy to take.

    Raises:
        Refused: the one that is wanted cannot be had; says why.
    """
    amounts = situation.amounts
    if wanted == "pre-copy" and situation.obstacle:
        raise Refused(
            f"--strategy pre-copy cannot be had: {situation.obstacle}",
            "Mend that, or take --strategy stop-copy.",
        )
    if wanted == "pre-copy" and amounts.other_bytes > MOST_BYTES:
        raise Refused(
            f"--strategy pre-copy cannot be had: {amounts.other_bytes} bytes of shared, locked or "
            "huge memory cannot follow page by page",
            "Take --strategy stop-copy.",
        )
    if situation.is_bounded and not situation.is_paused:
        if wanted == "stop-copy" or situation.obstacle:
            raise Refused(
                "--max-downtime needs the strategy pre-copy"
                + (f", which cannot be had: {situation.obstacle}" if situation.obstacle else ""),
                "Leave --max-downtime out, or make pre-copy possible.",
            )
        return "pre-copy"
    if wanted != "auto":
        return wanted
    is_worth_it = amounts.lazy_bytes >= SMALL_BYTES and amounts.other_bytes <= LARGE_BYTES
    can_be_had = not situation.is_paused and not situation.obstacle
    return "pre-copy" if is_worth_it and can_be_had else "stop-copy"


def expected_downtime(history: Sequence[Pass], memory_bytes: int) -> float:
    """Return how long it would stand still if it were frozen after the last pass.

    What it writes during a pass is what the next one finds, so the last two tell how much
    is written in a second; all of them, how much the link takes.

    Args:
        history: two passes at least.
        memory_bytes: what CRIU would list.

    Returns:
        Seconds.
    """
    seconds = sum(each.seconds for each in history)
    rate = max(1.0, sum(each.sent_bytes for each in history) / max(seconds, 1e-6))
    written_per_second = history[-1].sent_bytes / max(history[-2].seconds, 1e-3)
    left_bytes = written_per_second * max(history[-1].seconds, 1e-3)
    return OWN_SECONDS + LISTING_SECONDS * memory_bytes / (1 << 30) + left_bytes / rate


def goes_on(history: Sequence[Pass]) -> bool:
    """Tell whether another pass is worth it.

    The first pass finds everything; what any other finds is what was written during the
    one before it, so a pass that was short leaves little to the next.
    """
    if len(history) < 2:
        return True
    if history[-1].pages <= SMALL_PAGES or len(history) >= MOST_PASSES:
        return False
    pairs = list(pairwise(history[1:]))[-MOST_PASSES_OF_LITTLE_GAIN:]
    return len(pairs) < MOST_PASSES_OF_LITTLE_GAIN or not all(
        later.pages > LITTLE_GAIN * earlier.pages for earlier, later in pairs
    )
