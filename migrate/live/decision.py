"""What `migrate recover` does: both journals and both realities in, actions out.

Lives here: one pure function and the words it is spoken in. Must not live here:
looking (`live.reality`) or doing (`live.recover`). May be imported by `live`.

What it rests on:

1. Tasks run on the destination only after the source's COMMITTED was durable and
   said. So while the source's journal has no COMMITTED, the source may go on.
2. A source that has COMMITTED, or whose ROLLED_BACK is intended, has decided. It
   is carried out, whatever it takes.
3. The destination lets tasks go only after its ACTIVE intent, which is durable.
   Without it a copy whose processes are gone has never run; with it, it may have,
   unless CRIU killed them before they could.
4. A source that has COMMITTED keeps its frozen tasks until it has heard ACTIVE. If
   the destination's copy is gone and has never run, they are the container, and go
   on: the one way back from a commit.
5. Frozen tasks cannot end by themselves. Where they are gone all the same (the
   machine was restarted, somebody killed them) and the destination holds a copy,
   that copy is the container.
6. Where a word is needed that cannot be had now, both sides stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from migrate.live.phases import Landing, Phase


class Tasks(Enum):
    """What the container's processes on one host are doing."""

    RUNNING = "running"
    FROZEN = "frozen"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class SourceView:
    """The source as it is.

    Attributes:
        reached: the last result in its journal.
        pending: the intent after it, if any.
        same_boot: the machine has not been restarted since.
        confirmed: the journal says that the destination was seen ACTIVE.
        is_replaced: another container has its id by now, as after a restart.
    """

    reached: Phase | None
    pending: Phase | None
    tasks: Tasks
    same_boot: bool = True
    confirmed: bool = False
    is_replaced: bool = False

    @property
    def destination_may_hold(self) -> bool:
        """Whether the images may all have been sent.

        Records of the frozen part are not durable: a restart may have lost SENT's.
        """
        if not self.same_boot and Phase.FROZEN in (self.reached, self.pending):
            return True
        return self.reached is Phase.COMMITTED or Phase.SENT in (self.reached, self.pending)


@dataclass(frozen=True, slots=True)
class DestinationView:
    """The destination as it is; without a journal all phases are None.

    Attributes:
        was_refused: CRIU killed what it held: it has not run.
    """

    reached: Landing | None
    pending: Landing | None
    tasks: Tasks
    same_boot: bool = True
    was_refused: bool = False

    @property
    def may_have_run(self) -> bool:
        """Whether it is not certain that nothing of it has run."""
        if self.reached is Landing.ACTIVE:
            return True
        return self.pending is Landing.ACTIVE and not self.was_refused

    @property
    def holds(self) -> bool:
        """Whether a copy that has never run can be made to run."""
        return (
            self.reached in (Landing.HELD, Landing.COMMITTED)
            and self.pending is not Landing.DISCARDED
            and self.tasks is not Tasks.GONE
            and self.same_boot
        )

    @property
    def has_lost_it(self) -> bool:
        """Whether its copy is gone for certain, and has never run."""
        has_held = self.reached in (Landing.HELD, Landing.COMMITTED)
        return has_held and not self.holds and not self.may_have_run


class Outcome(Enum):
    """Where the container is when the actions are done."""

    ON_SOURCE = "it runs on the source"
    ON_DESTINATION = "it runs on the destination"
    ENDED = "it has ended"
    LOST = "it is lost"
    WAITING = "the other host must be asked, and cannot be reached"
    CONTRADICTION = "the journals contradict each other"


class SourceAction(Enum):
    """What the source has to do, in the order commit, destination's action, rest."""

    NOTHING = "nothing"
    ROLL_BACK = "roll back"  # record it, thaw, link up; then tell the destination
    COMMIT = "commit"  # record COMMITTED; then as CLEAN_UP
    CLEAN_UP = "clean up"  # after the destination's word: end the tasks, remove all


class DestinationAction(Enum):
    """What the destination has to do."""

    NOTHING = "nothing"
    DISCARD = "discard"
    ACTIVATE = "activate"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer."""

    outcome: Outcome
    source: SourceAction
    destination: DestinationAction
    because: str


def decide(source: SourceView, destination: DestinationView | None) -> Decision:
    """Return how a migration ends.

    Args:
        destination: None where it cannot be reached.
    """
    if Phase.ROLLED_BACK in (source.reached, source.pending):
        return _carry_out_rollback(source, destination)
    if source.reached in (Phase.COMMITTED, Phase.DONE):
        return _carry_out_commit(source, destination)
    if destination is not None and _was_told_to_run(destination):
        if source.tasks is Tasks.RUNNING or not source.destination_may_hold:
            return _contradiction("the destination was told to run it, and not by this journal")
        decision = _carry_out_commit(source, destination)
        if decision.source is SourceAction.ROLL_BACK:
            return decision
        return _with_source(decision, SourceAction.COMMIT)
    return _decide_uncommitted(source, destination)


def _was_told_to_run(destination: DestinationView) -> bool:
    return (
        destination.reached in (Landing.COMMITTED, Landing.ACTIVE)
        or destination.pending is Landing.ACTIVE
    )


def _carry_out_rollback(source: SourceView, destination: DestinationView | None) -> Decision:
    if destination is not None and destination.may_have_run:
        return _contradiction("the source has rolled back, and the destination has run it")
    alive = source.same_boot and source.tasks is not Tasks.GONE
    return Decision(
        Outcome.ON_SOURCE if alive else Outcome.ENDED,
        SourceAction.ROLL_BACK,
        _discard(destination),
        "the source has rolled back",
    )


def _carry_out_commit(source: SourceView, destination: DestinationView | None) -> Decision:
    because = "the source has committed"
    if destination is None:
        if source.confirmed:
            return Decision(
                Outcome.ON_DESTINATION,
                SourceAction.CLEAN_UP,
                DestinationAction.NOTHING,
                "the destination has said that it runs",
            )
        return Decision(Outcome.WAITING, SourceAction.NOTHING, DestinationAction.NOTHING, because)
    if destination.reached is Landing.ACTIVE:
        ended = destination.tasks is Tasks.GONE or not destination.same_boot
        return Decision(
            Outcome.ENDED if ended else Outcome.ON_DESTINATION,
            SourceAction.CLEAN_UP,
            DestinationAction.FORGET,
            "it has run on the destination",
        )
    if source.confirmed:
        return Decision(
            Outcome.ON_DESTINATION,
            SourceAction.CLEAN_UP,
            DestinationAction.NOTHING,
            "the destination has said that it runs, and forgotten the rest",
        )
    if destination.may_have_run:
        if destination.same_boot and destination.tasks is not Tasks.GONE:
            return _activate("it was being let go")
        return Decision(
            Outcome.ENDED,
            SourceAction.CLEAN_UP,
            DestinationAction.ACTIVATE,  # to record that it has ended
            "it was being let go on the destination, may have run, and is gone there",
        )
    if destination.holds:
        return _activate(because)
    if destination.has_lost_it and source.same_boot and source.tasks is not Tasks.GONE:
        return Decision(
            Outcome.ON_SOURCE,
            SourceAction.ROLL_BACK,
            _discard(destination),
            "the destination's copy is gone and has never run",
        )
    return Decision(
        Outcome.LOST,
        SourceAction.NOTHING,
        DestinationAction.NOTHING,
        "the source has committed, and the destination's copy is gone",
    )


def _decide_uncommitted(source: SourceView, destination: DestinationView | None) -> Decision:
    if source.same_boot and source.tasks is not Tasks.GONE:
        return Decision(
            Outcome.ON_SOURCE,
            SourceAction.ROLL_BACK,
            _discard(destination),
            "the source has not committed",
        )
    if destination is None:
        if source.destination_may_hold:
            return Decision(
                Outcome.WAITING,
                SourceAction.NOTHING,
                DestinationAction.NOTHING,
                "it is gone from the source, and the destination may hold it",
            )
        return _ended_or_lost(source, destination)
    if destination.holds:
        if source.is_replaced:
            return _contradiction("the destination holds it, and it was made anew on the source")
        return Decision(
            Outcome.ON_DESTINATION,
            SourceAction.COMMIT,
            DestinationAction.ACTIVATE,
            "it is gone from the source while frozen, and the destination holds it",
        )
    return _ended_or_lost(source, destination)


def _ended_or_lost(source: SourceView, destination: DestinationView | None) -> Decision:
    """Answer for a container that is gone from the source and held nowhere."""
    was_frozen = source.reached in (Phase.FROZEN, Phase.SENT)
    return Decision(
        Outcome.LOST if was_frozen and source.same_boot else Outcome.ENDED,
        SourceAction.ROLL_BACK,
        _discard(destination),
        "it was ended while it stood frozen" if was_frozen else "it has ended on the source",
    )


def _discard(destination: DestinationView | None) -> DestinationAction:
    if destination is None or (destination.reached is None and destination.pending is None):
        return DestinationAction.NOTHING
    return DestinationAction.DISCARD


def _activate(because: str) -> Decision:
    return Decision(
        Outcome.ON_DESTINATION, SourceAction.CLEAN_UP, DestinationAction.ACTIVATE, because
    )


def _with_source(decision: Decision, action: SourceAction) -> Decision:
    return Decision(decision.outcome, action, decision.destination, decision.because)


def _contradiction(because: str) -> Decision:
    return Decision(Outcome.CONTRADICTION, SourceAction.NOTHING, DestinationAction.NOTHING, because)
