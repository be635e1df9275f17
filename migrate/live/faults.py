"""Faults on purpose: how the tests stop either side at any journal record.

Lives here: reading MIGRATE_FAULT and carrying it out. May be imported by
`live.journal` only, which calls it before and after each record it writes: there
is no second place where a fault can be placed.

    MIGRATE_FAULT=SIDE:WHEN:RECORD:HOW[,...]

    SIDE    source | destination
    WHEN    before | after          the record is durable
    RECORD  a phase for its result, `intent.PHASE` for its intent
    HOW     kill   this process dies by SIGKILL
            stop   it is stopped by SIGSTOP until somebody continues it
            raise  an error comes out of the journal, as from a full disk

`MIGRATE_FAULT=source:before:COMMITTED:kill` is the last instant at which the
source's container may live on.
"""

from __future__ import annotations

import os
import signal

from migrate.errors import MigrationError, UsageError

VARIABLE = "MIGRATE_FAULT"
_SIDES = ("source", "destination")
_WHENS = ("before", "after")
_HOWS = ("kill", "stop", "raise")


def strike(side: str, when: str, record: str) -> None:
    """Do what MIGRATE_FAULT asks for at this place, usually nothing.

    Raises:
        MigrationError: the fault is `raise`.
        UsageError: the variable cannot be read.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    for fault in text.split(","):
        parts = fault.split(":")
        if (
            len(parts) != 4
            or parts[0] not in _SIDES
            or parts[1] not in _WHENS
            or parts[3] not in _HOWS
        ):
            raise UsageError(
                f"{VARIABLE}: {fault!r} is not SIDE:WHEN:RECORD:HOW",
                "Write for example source:before:COMMITTED:kill, or unset it.",
            )
        if parts[:3] == [side, when, record]:
            _carry_out(parts[3], fault)


def _carry_out(how: str, fault: str) -> None:
    """Die, stop or raise."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise MigrationError(f"fault on purpose: {fault}", f"Unset {VARIABLE}.")
