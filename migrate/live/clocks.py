"""Two hosts' clocks, compared over the link.

Lives here: reading them, measuring the difference, and what a program will see of it.
Must not live here: time namespaces themselves (`runtime.plan`). `live` only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from migrate.errors import ProtocolError
from migrate.events import Finding
from migrate.live.comparison import finding
from migrate.live.wire import Fields
from migrate.transport.link import Link

# Beyond that people and programs notice.
TOLERATED_SECONDS = 1.0
_QUESTIONS = 3
_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the other host's clocks are ahead of this one's; negative is behind.

    Attributes:
        wall_seconds: CLOCK_REALTIME.
        monotonic_seconds: CLOCK_MONOTONIC, which counts from the boot.
        boot_seconds: CLOCK_BOOTTIME, which counts while the machine sleeps, too.
        within_seconds: none of the three is wrong by more.
    """

    wall_seconds: float
    monotonic_seconds: float
    boot_seconds: float
    within_seconds: float


def read() -> dict[str, int]:
    """Return this host's clocks in nanoseconds; it is what `ping` answers."""
    return {
        "wall": time.time_ns(),
        "monotonic": time.monotonic_ns(),
        "boot": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    }


def measure(link: Link) -> Difference:
    """Ask the other host a few times and return what the quickest answer says.

    Raises:
        TransportError: the link broke.
        ProtocolError: the answer is none.
    """
    best: tuple[int, dict[str, int], dict[str, int]] | None = None
    for _ in range(_QUESTIONS):
        before = read()
        answer = Fields("ping", link.call("ping", timeout_seconds=30))
        after = read()
        there = {name: answer.number(name) for name in before}
        here = {name: (before[name] + after[name]) // 2 for name in before}
        taken = after["monotonic"] - before["monotonic"]
        if best is None or taken < best[0]:
            best = (taken, here, there)
    if best is None:
        raise ProtocolError("ping: was not asked")
    taken, here, there = best
    ahead = {name: (there[name] - here[name]) / _NANOSECONDS for name in here}
    return Difference(
        wall_seconds=ahead["wall"],
        monotonic_seconds=ahead["monotonic"],
        boot_seconds=ahead["boot"],
        within_seconds=taken / 2 / _NANOSECONDS,
    )


def judge(difference: Difference, *, there: str, are_kept: bool | None) -> Iterator[Finding]:
    """Yield what a program would see of the difference.

    Args:
        there: the other host's name.
        are_kept: the other host makes time namespaces: a restored container gets one in
            which its clocks go on, whether or not it had one (criu/timens.c); None where
            there is no container.
    """
    wall = difference.wall_seconds
    if abs(wall) > TOLERATED_SECONDS:
        yield finding(
            "clocks",
            "warn",
            f"the wall clock of {there} is {_lag(wall)} (measured within "
            f"{difference.within_seconds * 1000:.1f} ms)",
            "Set both hosts' clocks by NTP: programs see the time jump.",
        )
    else:
        yield finding("clocks", "ok", f"the wall clocks differ by {wall * 1000:+.1f} ms")
    if are_kept:
        yield finding(
            "clocks", "ok", "the container's monotonic clocks go on, in a time namespace of its own"
        )
        return
    for name, seconds in (
        ("CLOCK_MONOTONIC", difference.monotonic_seconds),
        ("CLOCK_BOOTTIME", difference.boot_seconds),
    ):
        if abs(seconds) <= TOLERATED_SECONDS:
            yield finding("clocks", "ok", f"{name} differs by {seconds * 1000:+.1f} ms")
            continue
        seen = "goes back" if seconds < 0 else "jumps ahead"
        meaning = (
            "what waits for a point in time waits so much longer"
            if seconds < 0
            else "timeouts that are points in time are over at once"
        )
        yield finding(
            "clocks",
            "warn" if are_kept is False else "ok",
            f"{name} of {there} is {_lag(seconds)}: without time namespaces there it {seen} for "
            f"programs, and {meaning}",
            "Choose a host whose kernel has time namespaces (Linux 5.6, CONFIG_TIME_NS).",
        )


def _lag(seconds: float) -> str:
    """Return a difference in words."""
    side = "ahead" if seconds > 0 else "behind"
    size = abs(seconds)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if size >= 2 * length:
            return f"{size / length:.1f} {unit} {side}"
    return f"{size:.1f} seconds {side}"
