"""`migrate live --dry-run`: what a migration would be like, from what can be measured.

Lives here: measuring the link and the writes, and the sum. Must not live here: the
checks (`preflight`), the rules of the strategies (`live.strategy`). Imported by
`migrate.cli`.

The link is measured with pages of the container itself, which are as easy to compress as
the rest of them; the writes by two passes whose pages go nowhere. Nothing is frozen, and
nothing is kept on the other host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from migrate.checkpoint import procfs
from migrate.checkpoint.mappings import lazy_mappings, pages_there
from migrate.checkpoint.memory_copy import MemoryCopy, Pass, read_pages
from migrate.errors import Refused
from migrate.events import Foretold, emit
from migrate.live import preflight
from migrate.live.hearing import counted
from migrate.live.host_facts import gather
from migrate.live.order import Order
from migrate.live.reach import reach
from migrate.live.sending_memory import choose_for
from migrate.live.strategy import OWN_SECONDS, Strategy, expected_downtime, goes_on
from migrate.live.subject import find
from migrate.live.volumes.travel import Travel
from migrate.live.wire import PROBE, PROBE_BYTES
from migrate.runtime import state
from migrate.transport.link import Link

_ENOUGH_BYTES = 1 << 20
_WATCH_SECONDS = 1.0
_CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured; bytes of contents, those of zeros not counted.

    Attributes:
        memory_bytes: how much there is.
        written_bytes: how much of it is written in a second.
        link_bytes: how much the link takes in a second, before compression.
        files_bytes: how much is in the root file system.
    """

    memory_bytes: int
    written_bytes: float
    link_bytes: float
    files_bytes: int


def foretell(order: Order) -> None:
    """Say how a migration would go.

    Raises:
        Refused: it would not; says what stands in its way.
        MigrateError: the container is not there, or the other host cannot be reached.
    """
    found = find(order.store, order.container_id).with_bridges(order.bridges)
    is_paused = state.status(found.record) == "paused"
    bundle = order.bundle or found.record["bundle"]
    with reach(order.way) as reached:
        here = gather(criu=order.criu, root=order.store.root)
        outcome = preflight.consult(reached, found, here, bundle=bundle)
        outcome.findings.extend(Travel(order.wanted, found, bundle).consult(reached))
        for each in outcome.findings:
            emit(each)
        if outcome.refusals:
            raise Refused(counted(outcome.refusals), outcome.refusals[0].hint)
        strategy = choose_for(order.strategy, found.facts, order.limits, is_paused=is_paused)
        pids = procfs.descendants(found.facts.pid)
        link_bytes = _measure_link(reached.link, list(pids.values()))
        if order.limits.bytes_per_second is not None:
            link_bytes = min(link_bytes, order.limits.bytes_per_second)
        memory_bytes, written_bytes = _measure_writes(pids, is_paused=is_paused)
        measured = Measured(
            memory_bytes=memory_bytes,
            written_bytes=written_bytes,
            link_bytes=link_bytes,
            files_bytes=_size_of(found.record["rootfs"]),
        )
        emit(sum_up(order.container_id, reached.peer.host, strategy, measured))


def sum_up(container_id: str, host: str, strategy: Strategy, measured: Measured) -> Foretold:
    """Return what is to be expected."""
    history: list[Pass] = []
    if strategy == "pre-copy":
        left = float(measured.memory_bytes)
        while goes_on(history):
            seconds = left / measured.link_bytes
            history.append(Pass(pages=int(left) >> 12, sent_bytes=int(left), seconds=seconds))
            left = min(measured.memory_bytes, measured.written_bytes * seconds)
        downtime = expected_downtime(history, measured.memory_bytes)
    else:
        downtime = OWN_SECONDS + measured.memory_bytes / measured.link_bytes
    running = measured.files_bytes / measured.link_bytes + sum(each.seconds for each in history)
    return Foretold(
        container=container_id,
        destination=host,
        strategy=strategy,
        memory_bytes=measured.memory_bytes,
        files_bytes=measured.files_bytes,
        written_bytes_per_second=round(measured.written_bytes),
        link_bytes_per_second=round(measured.link_bytes),
        passes=len(history),
        downtime_seconds=round(downtime, 3),
        total_seconds=round(running + downtime, 3),
    )


def _measure_link(link: Link, pids: list[int]) -> float:
    """Return how many bytes of such memory the link takes in a second."""
    pieces = list(_pieces(pids))
    if sum(map(len, pieces)) < _ENOUGH_BYTES:
        pieces = [os.urandom(_ENOUGH_BYTES) for _ in range(4)]
    began = time.monotonic()
    with link.open_stream(PROBE, PROBE_BYTES) as stream:
        for piece in pieces:
            stream.give(memoryview(piece))
    link.call("probe", None, _CALL_SECONDS)
    return sum(map(len, pieces)) / (time.monotonic() - began)


def _pieces(pids: list[int]) -> Iterator[bytes]:
    """Yield memory of the container, no more than a probe takes."""
    left = PROBE_BYTES
    for pid in pids:
        for _, contents in read_pages(pid, list(pages_there(pid, lazy_mappings(pid)))):
            if left < len(contents):
                return
            left -= len(contents)
            yield bytes(contents)


def _measure_writes(pids: dict[int, int], *, is_paused: bool) -> tuple[int, float]:
    """Return how much memory has contents, and how much of it is written in a second."""
    processes = [(pid, number) for number, pid in pids.items()]
    copy = MemoryCopy(lambda _: None, by_kernel=not is_paused)
    try:
        everything = copy.pass_over(processes)
        copy.pass_over(processes)  # what was written while all of it was read
        began = time.monotonic()
        time.sleep(_WATCH_SECONDS)
        written = copy.pass_over(processes)
        return everything.sent_bytes, written.sent_bytes / (time.monotonic() - began)
    finally:
        copy.close()


def _size_of(rootfs: str) -> int:
    """Return how much is in the files below a folder."""
    total = 0
    for folder, _, names in os.walk(rootfs):
        for name in names:
            try:
                total += os.lstat(f"{folder}/{name}").st_size
            except OSError:
                continue  # removed meanwhile
    return total
