"""The records of a journal as bytes: one line of JSON each, chained by checksums.

Lives here: the record, its encoding, and replay; pure. Must not live here: files and
locks (`live.journal`), what follows from records (`live.decision`). `live` only.

A line ends in a checksum over itself and the checksum before it, so that a lost,
doubled or exchanged line shows. One that was cut short, with nothing after it, was
never acted upon and is dropped; any other damage is reported, because nobody may guess
what a decision was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from migrate.errors import Undecided
from migrate.live.phases import AnyPhase, Landing, Side, may_follow, phase_of

VERSION = 1
_SUM = b',"sum":"'
SUM_DIGITS = 16

Kind = Literal["intent", "result"]


@dataclass(frozen=True, slots=True)
class Record:
    """One line.

    Attributes:
        sequence: counts from 0.
        at_seconds: wall clock, for people.
        boot: the kernel's boot id, see random(4).
        pid: of the writer, with start_ticks telling it from a later one.
        facts: what recovery needs to know that cannot be seen; small.
    """

    sequence: int
    kind: Kind
    phase: AnyPhase
    at_seconds: float
    boot: str
    pid: int
    start_ticks: int
    facts: Mapping[str, Any]


def encode(record: Record, sum_before: str) -> bytes:
    """Return a record as its line, checksum and newline included."""
    body = json.dumps(
        {
            "v": VERSION,
            "n": record.sequence,
            "kind": record.kind,
            "phase": record.phase.value,
            "at": record.at_seconds,
            "boot": record.boot,
            "pid": record.pid,
            "start": record.start_ticks,
            "facts": record.facts,
        },
        separators=(",", ":"),
    ).encode()
    return body[:-1] + _SUM + _checksum(body, sum_before).encode() + b'"}\n'


def _checksum(body: bytes, sum_before: str) -> str:
    """Return the checksum of a record without its checksum, chained to the one before."""
    return hashlib.sha256(sum_before.encode() + body).hexdigest()[:SUM_DIGITS]


def replay(side: Side, content: bytes) -> tuple[list[Record], int, str]:
    """Return the records of a journal file, where they end, and the last checksum.

    Raises:
        Undecided: a line other than one cut short at the end is not as written.
    """
    records: list[Record] = []
    position, sum_before = 0, ""
    while position < len(content) and content[position] != 0:
        end = content.find(b"\n", position)
        if end < 0:
            # Cut short: unless it is whole and only its newline is not, or goes on
            # behind a hole.
            line = content[position:].rstrip(b"\0")
            if b"\0" in line or _decode_or_none(side, line[:-1], sum_before, records):
                raise _damaged(len(records))
            break
        record = _decode_or_none(side, content[position:end], sum_before, records)
        if record is None:
            raise _damaged(len(records))
        sum_before = content[end - 2 - SUM_DIGITS : end - 2].decode()
        records.append(record)
        position = end + 1
    return records, position, sum_before


def _damaged(line: int) -> Undecided:
    """Return the error for a line that is not as it was written."""
    return Undecided(
        f"journal is damaged in line {line + 1}",
        "Look at the journals of both hosts; the container is where the later phase is.",
    )


def _decode_or_none(
    side: Side, line: bytes, sum_before: str, before: list[Record]
) -> Record | None:
    """Return the record a line holds, or None where it is not one that may stand there."""
    body, found, rest = line.rpartition(_SUM)
    if not found or len(rest) != SUM_DIGITS + 2 or not rest.endswith(b'"}'):
        return None
    body += b"}"
    if rest[:-2] != _checksum(body, sum_before).encode():
        return None
    try:
        data = json.loads(body)
        record = Record(
            sequence=data["n"],
            kind=data["kind"],
            phase=phase_of(side, data["phase"]),
            at_seconds=data["at"],
            boot=data["boot"],
            pid=data["pid"],
            start_ticks=data["start"],
            facts=data["facts"],
        )
    except (ValueError, KeyError, TypeError):
        return None
    in_order = data["v"] == VERSION and record.sequence == len(before)
    return record if in_order and may_stand(before, record.phase) else None


def may_stand(before: list[Record], phase: AnyPhase) -> bool:
    """Tell whether a record may follow the ones before it.

    A result follows its own intent, or comes without one. An intent may be given up
    for another (COPYING failed, so ROLLED_BACK), except where it is a decision. ACTIVE's
    is given up for DISCARDED where CRIU did not let go: whoever writes that has seen it.
    """
    reached = next((r.phase for r in reversed(before) if r.kind == "result"), None)
    pending = before[-1].phase if before and before[-1].kind == "intent" else None
    if pending is not None and pending.value in _BINDING and phase is not pending:
        return (pending, phase) == (Landing.ACTIVE, Landing.DISCARDED)
    return may_follow(reached, phase)


_BINDING = ("ROLLED_BACK", "DISCARDED", "ACTIVE", "DONE")
