"""The source's side of the memory: which way it goes, and what goes before the freeze.

Lives here: the choice from what the container is, and the running copy. Must not live
here: the rule of the choice (`live.strategy`), the ways (`live.stop_copy`,
`live.pre_copy`), the frozen part (`live.frozen_copy`). `live` only.
"""

from __future__ import annotations

from migrate.checkpoint import procfs
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.lazy import check_pipes
from migrate.checkpoint.mappings import amounts
from migrate.errors import CriuError
from migrate.live import pre_copy, stop_copy
from migrate.live.pre_copy import CopiedMemory
from migrate.live.stop_copy import StreamedMemory
from migrate.live.strategy import Limits, Situation, Strategy, choose
from migrate.live.work import Work
from migrate.transport.link import Link

CALL_SECONDS = 60.0


def choose_for(wanted: Strategy, facts: Facts, limits: Limits, *, is_paused: bool) -> Strategy:
    """Return how a container's memory shall go.

    Raises:
        Refused: the strategy that is wanted cannot be had.
    """
    obstacle = ""
    try:
        check_pipes()
    except CriuError as error:
        obstacle = error.message
    situation = Situation(
        amounts=amounts(procfs.tree(facts.pid)),
        is_paused=is_paused,
        obstacle=obstacle,
        is_bounded=limits.downtime_seconds is not None,
    )
    return choose(wanted, situation)


def stream_of(strategy: Strategy) -> str:
    """Return the name of the stream by which memory goes."""
    return stop_copy.STREAM if strategy == "stop-copy" else pre_copy.STREAM


def sending(
    strategy: Strategy, link: Link, facts: Facts, limits: Limits, *, is_paused: bool
) -> StreamedMemory | CopiedMemory:
    """Return what sends it; `close` it."""
    if strategy == "stop-copy":
        return StreamedMemory(link, facts)
    return CopiedMemory(link, facts, facts.pid, limits=limits, by_kernel=not is_paused)


def copy_running(link: Link, memory: StreamedMemory | CopiedMemory) -> None:
    """Copy memory while the container runs; meanwhile all is made ready over there."""
    waiting = Work("await-images", lambda: link.call("await_images", None, CALL_SECONDS))
    if isinstance(memory, StreamedMemory):
        waiting.start()
    else:
        memory.pass_once_more()
        waiting.start()
        try:
            memory.approach()
        finally:
            waiting.end()
        memory.pass_once_more()
        memory.expected_downtime()
    waiting.result()
