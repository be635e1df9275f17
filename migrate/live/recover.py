"""`migrate recover`: bring a migration that was cut off to its one end.

Lives here: looking at both sides, and carrying out what `live.decision` says. Must not
live here: the decision itself. Imported by `migrate.cli`, and by `live.source` for a
link that broke after the commit.

On the source it reads its journal, asks the destination named there, and carries the
answer out on both; each step may be done twice. On the destination it cleans up what
may be cleaned up without the source, and else says where to run it. Two at once: the
second waits for the lock on the journal, and finds less to do, or nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from migrate.errors import Locked, Lost, TransportError, Undecided
from migrate.events import Log, PhaseEntered, emit
from migrate.live.decision import (
    Decision,
    DestinationAction,
    DestinationView,
    Outcome,
    SourceAction,
    SourceView,
    decide,
)
from migrate.live.departure import Departure
from migrate.live.destination import Destination, Settings
from migrate.live.journal import Journal, folder_of
from migrate.live.phases import GIVES_UP_ALONE, Landing, Phase, may_follow
from migrate.live.reach import Reached, Way, reach
from migrate.live.views import view_from_json
from migrate.runtime.state import Store

# A recovery waits so long for another one, or for the tool, to let go of the journal.
LOCK_SECONDS = 60.0
CALL_SECONDS = 180.0


def recover(
    store: Store, container_id: str, *, journals: str, way: Way | None, criu: str | None
) -> None:
    """Settle the migration of a container, whichever side this host was.

    Args:
        way: how to reach the other host, if not as the journal says.

    Raises:
        Undecided: it cannot be settled now; says what is missing.
        Lost: the container cannot be brought back from either side.
        Locked: whoever drives it did not end in time.
    """
    found = False
    with contextlib.suppress(FileNotFoundError):
        folder = folder_of(journals, "source", store.root, container_id)
        with Journal.open("source", folder, LOCK_SECONDS) as journal:
            found = True
            settle(journal, store, way or _way_of(journal))
    settings = Settings(store=store, journals=journals, criu=criu)
    if not _recover_destination(settings, container_id) and not found:
        emit(Log(level="info", message=f"no migration of {container_id} is unfinished here"))


def hasty(way: Way, seconds: float) -> Way:
    """Return the same way, tried for not much longer than this."""
    return replace(way, connect_seconds=seconds)


def _way_of(journal: Journal) -> Way | None:
    """Return how the other side is reached; None before anybody was."""
    data = journal.fact("way")
    return Way.from_json(data) if data is not None else None


# --- the source ----------------------------------------------------------------------


def settle(journal: Journal, store: Store, way: Way | None) -> None:
    """Bring the source's migration to its end; the journal is gone then.

    Raises:
        Undecided: the other side is needed and cannot be reached, or has a story that
            does not fit.
        Lost: see there.
    """
    if not journal.records or way is None:
        # Its maker was killed before it asked anybody for anything.
        journal.remove()
        return
    departure = Departure.of_journal(store, journal)
    with contextlib.ExitStack() as stack:
        reached, problem = None, None
        try:
            reached = stack.enter_context(reach(way))
            destination = _ask(reached, departure.container_id)
        except TransportError as error:
            destination, problem = None, error
        source = departure.look(journal)
        decision = decide(source, destination)
        emit(Log(level="info", message=f"{decision.because}: {decision.outcome.value}"))
        _carry_out(decision, source, journal, departure, reached)
        _close(decision, source, journal, way, problem)


def _ask(reached: Reached, container_id: str) -> DestinationView:
    answer = reached.link.call("status", {"container": container_id}, CALL_SECONDS)
    return view_from_json(answer)


def _carry_out(
    decision: Decision,
    source: SourceView,
    journal: Journal,
    departure: Departure,
    reached: Reached | None,
) -> None:
    """Do it, in the order that never lets both run."""
    name = {"container": departure.container_id}
    if decision.source is SourceAction.ROLL_BACK:
        if Phase.ROLLED_BACK not in (journal.reached, journal.pending):
            journal.intend(
                Phase.ROLLED_BACK, why=decision.because, may_hold=source.destination_may_hold
            )
        if journal.reached is not Phase.ROLLED_BACK:  # else it is any command's again
            departure.go_on(source.tasks)
            journal.enter(Phase.ROLLED_BACK)
        if reached is not None and decision.destination is DestinationAction.DISCARD:
            reached.link.call("discard", name, CALL_SECONDS)
        return
    if decision.source is SourceAction.COMMIT:
        departure.keep_still()
        record_commit(journal)
    if decision.source in (SourceAction.COMMIT, SourceAction.CLEAN_UP):
        departure.keep_still()
        if reached is not None and decision.destination is DestinationAction.ACTIVATE:
            reached.link.call("commit", name, CALL_SECONDS)
        if journal.reached is not Phase.DONE:
            if journal.pending is not Phase.DONE:
                journal.intend(Phase.DONE, confirmed=True)
            departure.end()
        if reached is not None and decision.destination is not DestinationAction.NOTHING:
            reached.link.call("forget", name, CALL_SECONDS)


def record_commit(journal: Journal) -> None:
    """Record the commit, and before it what a restart may have lost: it was not durable."""
    for phase in (Phase.FROZEN, Phase.SENT, Phase.COMMITTED):
        if may_follow(journal.reached, phase):
            journal.enter(phase)


def _close(
    decision: Decision,
    source: SourceView,
    journal: Journal,
    way: Way,
    problem: TransportError | None,
) -> None:
    """Write the last record, or say why it cannot be the last."""
    container_id = journal.fact("container")
    if decision.outcome is Outcome.LOST and decision.source is SourceAction.NOTHING:
        raise Lost(
            f'container "{container_id}" is lost: {decision.because}',
            f"Restore it from a checkpoint; then remove {journal.folder}.",
        )
    if decision.outcome in (Outcome.WAITING, Outcome.CONTRADICTION):
        if problem is not None:
            raise Undecided(
                f'container "{container_id}": {decision.because}; '
                f"{way.host} cannot be reached: {problem.message}",
                f"Run `migrate recover {container_id}` again once it can be.",
            ) from problem
        raise Undecided(
            f'container "{container_id}": {decision.because}',
            "Look at both hosts; nothing was touched.",
        )
    if problem is not None:
        _without_the_other_side(decision, source, journal, way, problem)
    last = Phase.ROLLED_BACK if decision.source is SourceAction.ROLL_BACK else Phase.DONE
    if journal.reached is not last:
        journal.enter(last)
    emit(PhaseEntered(side="source", phase=last.value))
    journal.remove()
    if decision.outcome is Outcome.LOST:
        raise Lost(
            f'container "{container_id}" is lost: {decision.because}',
            "Restore it from a checkpoint.",
        )


def _without_the_other_side(
    decision: Decision,
    source: SourceView,
    journal: Journal,
    way: Way,
    problem: TransportError,
) -> None:
    """Go on where the other side leaves nothing by itself, else keep the journal.

    Raises:
        Undecided: something may be held over there until it is told.
    """
    may_hold = source.destination_may_hold or journal.fact("may_hold") is True
    if decision.source is SourceAction.ROLL_BACK and not may_hold:
        emit(Log(level="warning", message=f"{problem.message}; it gives up by itself"))
        return
    container_id = journal.fact("container")
    raise Undecided(
        f'container "{container_id}": {decision.outcome.value}; '
        f"{way.host} was not told: {problem.message}",
        f"Run `migrate recover {container_id}` again once it can be reached.",
    ) from problem


# --- the destination -------------------------------------------------------------------


def _recover_destination(settings: Settings, container_id: str) -> bool:
    """Clean up here what needs no word of the source; returns whether there was anything.

    Raises:
        Undecided: it needs one.
    """
    destination = Destination(settings, None)
    try:
        if not destination.attach(container_id, 5.0):
            return False
    except Locked as locked:
        raise Undecided(
            f"{locked.message}, which waits for its source",
            f"Run `migrate recover {container_id}` on the host it came from.",
        ) from None
    try:
        if destination.reached in (*GIVES_UP_ALONE, Landing.DISCARDED):
            destination.discard()
            emit(Log(level="info", message=f"what had arrived of {container_id} is removed"))
            return True
        source = destination.source
        if destination.reached is Landing.ACTIVE:
            emit(Log(level="info", message=f"{container_id} runs here; {source} was not told yet"))
            return True
    finally:
        destination.detach()
    raise Undecided(
        f'container "{container_id}" is held here until {source} says how it ends',
        f"Run `migrate recover {container_id}` on {source}.",
    )
