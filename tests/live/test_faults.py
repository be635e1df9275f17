"""Either side killed before and after each record of its journal, for real.

Whatever was cut off, `migrate recover` on the source brings the container to exactly
one host, with nothing lost and nothing left; and it may be run again.
"""

from __future__ import annotations

import signal

import pytest

from migrate.live.phases import Landing, Phase
from tests.live.moving import Moved, Where

# The records that are written on the way, and where a container is that was cut off
# there: once COMMITTED is durable, the source has decided.
SOURCE_RECORDS = [
    *("intent.PREPARED", "PREPARED", "intent.COPYING", "COPYING", "intent.FROZEN", "FROZEN"),
    *("intent.SENT", "SENT", "COMMITTED", "intent.DONE", "DONE"),
]
DESTINATION_RECORDS = [
    *("intent.RESERVED", "RESERVED", "intent.RECEIVING", "RECEIVING", "intent.VERIFIED"),
    *("VERIFIED", "intent.HELD", "HELD", "COMMITTED", "intent.ACTIVE", "ACTIVE"),
]


def places(records: list[str]) -> list[tuple[str, str]]:
    return [(when, record) for record in records for when in ("before", "after")]


def outcome(when: str, record: str) -> Where:
    """Where it runs after the source was killed there."""
    at, commit = SOURCE_RECORDS.index(record), SOURCE_RECORDS.index("COMMITTED")
    return "host2" if at > commit or (at == commit and when == "after") else "host1"


def test_the_tables_of_this_test_name_every_phase() -> None:
    assert {phase.value for phase in Phase} - {"ROLLED_BACK"} <= set(SOURCE_RECORDS)
    assert {phase.value for phase in Landing} - {"DISCARDED"} <= set(DESTINATION_RECORDS)


@pytest.mark.parametrize(("when", "record"), places(SOURCE_RECORDS))
def test_the_source_killed(container: Moved, when: str, record: str) -> None:
    killed = container.live(fault=f"source:{when}:{record}:kill", check=False)
    assert killed.returncode == -signal.SIGKILL
    container.recover()
    container.must_run_on(outcome(when, record))
    container.recover()


@pytest.mark.parametrize(("when", "record"), places(DESTINATION_RECORDS))
def test_the_agent_killed(container: Moved, when: str, record: str) -> None:
    done = container.live(fault=f"destination:{when}:{record}:kill", check=False)
    # Before it was let go there the source goes on, also where it had committed.
    expected: Where = "host2" if record == "ACTIVE" else "host1"
    assert done.returncode == (1 if expected == "host1" else 0), done.stderr
    container.recover()
    container.must_run_on(expected)
    container.recover()
