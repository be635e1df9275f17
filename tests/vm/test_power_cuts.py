"""A machine that ends in the middle of a migration, and what both come to when it is back.

What is promised: never two incarnations; a container that was given away, or held, is
brought to its one end by `recover`; one that ran on the machine that ended, and nowhere
else, is gone as it would be without any migration; and nothing is left of the attempt.
"""

from __future__ import annotations

from typing import Literal

import pytest

from tests.vm.container import ID, Container, eventually

long = pytest.mark.long
End = Literal["host1", "host2", "nowhere"]


def cut_off(container: Container, place: str) -> None:
    """End the machine that has reached a record of its journal, and boot it again."""
    side = place.split(":", 1)[0]
    machine = container.host1 if side == "source" else container.host2
    with container.stopped_at(place) as live:
        machine.stop()
        if side == "destination":
            # The source is there and finds out by itself; it must not wait for ever.
            assert live.wait(timeout=180) != 0
    machine.start()


def settle(container: Container, end: End) -> None:
    """Recover on both machines, more than once, and see that it is where it must be."""
    for _ in range(2):
        for machine in container.pair.machines.values():
            machine.run(["migrate", "recover", ID], check=False, timeout_seconds=300)
    if end == "nowhere":
        container.must_run_nowhere()
    else:
        container.must_run_on(end)


@pytest.mark.parametrize(
    ("place", "end"),
    [
        pytest.param("source:after:COPYING", "nowhere", marks=long),
        pytest.param("source:after:FROZEN", "nowhere", marks=long),
        pytest.param("source:after:SENT", "host2", marks=long),
        ("source:after:COMMITTED", "host2"),
    ],
)
def test_the_source_is_cut_off(container: Container, place: str, end: End) -> None:
    cut_off(container, place)
    settle(container, end)


@pytest.mark.parametrize(
    ("place", "end"),
    [
        pytest.param("destination:after:RECEIVING", "host1", marks=long),
        ("destination:after:HELD", "host1"),
        pytest.param("destination:after:COMMITTED", "host1", marks=long),
    ],
)
def test_the_destination_is_cut_off(container: Container, place: str, end: End) -> None:
    cut_off(container, place)
    settle(container, end)


@long
def test_both_are_cut_off_after_the_commit(container: Container) -> None:
    """What was only held in memory is gone with both; nothing may come back twice."""
    with container.stopped_at("source:after:COMMITTED"):
        container.host1.stop()
        container.host2.stop()
    container.host1.start()
    container.host2.start()
    for _ in range(2):
        for machine in container.pair.machines.values():
            machine.run(["migrate", "recover", ID], check=False, timeout_seconds=300)
    container.must_run_nowhere()
    eventually(lambda: container.leftovers() == [], "nothing is left")
