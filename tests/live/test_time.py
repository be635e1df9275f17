"""Clocks that count from a boot go on where another host was booted at another time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.live.subject import Subject, subject
from tests.support.bundle import Config
from tests.support.hosts import Site

AHEAD_SECONDS = 86400
OFFSET_SECONDS = 5000
THINGS = ("clocks", "timerfd", "itimer", "posix-timer", "threads")


@pytest.fixture(scope="module")
def apart() -> Iterator[Site]:
    """Two hosts, of which the second was booted a day before the first."""
    with Site(ahead={"host2": AHEAD_SECONDS}) as made:
        yield made


@pytest.fixture
def it(apart: Site) -> Iterator[Subject]:
    with subject(apart) as made:
        yield made


def with_clocks_of_its_own(config: Config) -> None:
    config["linux"]["namespaces"].append({"type": "time"})
    config["linux"]["timeOffsets"] = {
        "monotonic": {"secs": OFFSET_SECONDS},
        "boottime": {"secs": OFFSET_SECONDS},
    }


def without(_: Config) -> None:
    return


@pytest.mark.hosts
@pytest.mark.parametrize("change", [with_clocks_of_its_own, without])
def test_its_clocks_and_timers_go_on(it: Subject, change: Callable[[Config], None]) -> None:
    it.make(["/belongings", *THINGS], change)
    it.start()
    it.wait_until_ready()
    it.live()
    it.must_have_moved()
    uptime = float(it.exec(it.host2, "cat", "/proc/uptime").split()[0])
    there = float(it.host2.run(["cat", "/proc/uptime"]).stdout.split()[0])
    assert there - uptime > AHEAD_SECONDS / 2, "a further process sees the host's clocks"
    assert it.verdicts(it.host2) == {}


@pytest.mark.hosts
def test_they_go_on_after_the_way_back(it: Subject) -> None:
    it.make(["/belongings", *THINGS])
    it.start()
    it.wait_until_ready()
    it.live()
    it.must_have_moved()
    it.host2.run(["migrate", "live", "subject", "--to", "host1"])
    assert it.status(it.host1) == "running"
    assert it.verdicts(it.host1) == {}


@pytest.mark.hosts
def test_the_hosts_really_differ(apart: Site) -> None:
    uptimes = [
        float(each.run(["cat", "/proc/uptime"]).stdout.split()[0])
        for each in (apart.host1, apart.host2)
    ]
    assert AHEAD_SECONDS - 60 < uptimes[1] - uptimes[0] < AHEAD_SECONDS + 60
