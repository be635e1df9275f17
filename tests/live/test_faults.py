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


def outcome(records: list[str], when: str, record: str) -> Where:
    at, commit = records.index(record), records.index("COMMITTED")
    return "host2" if at > commit or (at == commit and when == "after") else "host1"


def test_the_tables_of_this_test_name_every_phase() -> None:
    assert {phase.value for phase in Phase} - {"ROLLED_BACK"} <= set(SOURCE_RECORDS)
    assert {phase.value for phase in Landing} - {"DISCARDED"} <= set(DESTINATION_RECORDS)


@pytest.mark.parametrize(("when", "record"), places(SOURCE_RECORDS))
def test_the_source_killed(container: Moved, when: str, record: str) -> None:
    killed = container.live(fault=f"source:{when}:{record}:kill", check=False)
    assert killed.returncode == -signal.SIGKILL
    container.recover()
    container.must_run_on(outcome(SOURCE_RECORDS, when, record))
    container.recover()


@pytest.mark.parametrize(("when", "record"), places(DESTINATION_RECORDS))
def test_the_agent_killed(container: Moved, when: str, record: str) -> None:
    done = container.live(fault=f"destination:{when}:{record}:kill", check=False)
    # The source finishes by itself what is decided; before that it rolls back.
    expected = "host1" if record != "COMMITTED" and "ACTIVE" not in record else "host2"
    assert done.returncode == (1 if expected == "host1" else 0), done.stderr
    container.recover()
    container.must_run_on(expected)  # type: ignore[arg-type]  # one of two names
    container.recover()
