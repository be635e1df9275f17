"""`live.decision`: every combination of two journals and two realities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from migrate.live.decision import (
    Decision,
    DestinationAction,
    DestinationView,
    Outcome,
    SourceAction,
    SourceView,
    Tasks,
    decide,
)
from migrate.live.phases import DESTINATION_NEXT, SOURCE_NEXT, Landing, Phase


def sources() -> Iterator[SourceView]:
    """Every state of a source's journal that the phase table allows, in every reality."""
    for reached, following in SOURCE_NEXT.items():
        for pending in (None, *following):
            if pending is Phase.COMMITTED:
                continue  # it has no intent: it is one
            for tasks, same_boot, confirmed in product(Tasks, (True, False), (False, True)):
                if not same_boot and tasks is not Tasks.GONE:
                    continue
                if confirmed != (pending is Phase.DONE or reached is Phase.DONE):
                    continue
                yield SourceView(reached, pending, tasks, same_boot, confirmed)


def destinations() -> Iterator[DestinationView | None]:
    """The same for a destination, and one that cannot be reached."""
    yield None
    for reached, following in DESTINATION_NEXT.items():
        for pending in (None, *following):
            flags = product((True, False), (True, False))
            for tasks, (same_boot, refused) in product(Tasks, flags):
                if tasks is not Tasks.GONE and (refused or not same_boot):
                    continue
                yield DestinationView(reached, pending, tasks, same_boot, refused)


def cases() -> Iterator[tuple[SourceView, DestinationView | None, Decision]]:
    for source, destination in product(sources(), destinations()):
        yield source, destination, decide(source, destination)


def was_let_go(destination: DestinationView) -> bool:
    return destination.may_have_run


def is_possible(source: SourceView, destination: DestinationView | None) -> bool:
    """Tell whether the commit order allows this pair at all.

    The destination is COMMITTED or further only after the source's COMMITTED, its
    tasks run only after its own ACTIVE intent, and it holds only after the source
    began to send the last images.
    """
    committed = source.reached in (Phase.COMMITTED, Phase.DONE)
    if source.tasks is Tasks.RUNNING and (committed or source.reached is Phase.SENT):
        return False
    if destination is None:
        return True
    if Phase.ROLLED_BACK in (source.reached, source.pending) and was_let_go(destination):
        return False
    told = destination.reached in (Landing.COMMITTED, Landing.ACTIVE)
    told = told or destination.pending is Landing.ACTIVE
    if (told or was_let_go(destination)) and not committed:
        return False
    if destination.tasks is Tasks.RUNNING and not was_let_go(destination):
        return False
    held = told or destination.reached is Landing.HELD
    if held and not (
        committed
        or source.destination_may_hold
        or Phase.ROLLED_BACK in (source.reached, source.pending)
    ):
        return False
    gave_up = Landing.DISCARDED in (destination.reached, destination.pending)
    return not (committed and (gave_up or not held) and not source.confirmed)


def test_every_case_has_an_answer() -> None:
    assert sum(1 for _ in cases()) > 1000


def test_never_do_both_sides_run() -> None:
    for source, destination, decision in cases():
        source_runs = decision.source is SourceAction.ROLL_BACK
        destination_runs = decision.destination is DestinationAction.ACTIVATE
        assert not (source_runs and destination_runs), (source, destination)
        if destination is not None and source_runs:
            assert destination.reached is not Landing.ACTIVE, (source, destination)


def test_a_source_that_committed_is_thawed_only_where_the_other_copy_is_gone_unrun() -> None:
    for source, destination, decision in cases():
        if source.reached is Phase.DONE:
            assert decision.source is not SourceAction.ROLL_BACK, (source, destination)
        if source.reached is Phase.COMMITTED and decision.source is SourceAction.ROLL_BACK:
            if source.pending is Phase.ROLLED_BACK:
                continue
            assert destination is not None
            assert not was_let_go(destination), (source, destination)
            assert not destination.holds, (source, destination)
            assert source.tasks is not Tasks.GONE, (source, destination)
            assert decision.destination is DestinationAction.DISCARD, (source, destination)


def test_a_source_that_rolled_back_never_lets_the_destination_run() -> None:
    for source, destination, decision in cases():
        if Phase.ROLLED_BACK in (source.reached, source.pending):
            assert decision.destination is not DestinationAction.ACTIVATE, (source, destination)


def test_a_destination_is_activated_only_under_a_commit() -> None:
    for source, destination, decision in cases():
        if decision.destination is DestinationAction.ACTIVATE:
            committed = source.reached in (Phase.COMMITTED, Phase.DONE)
            assert committed or decision.source is SourceAction.COMMIT, (source, destination)


def test_what_may_have_run_on_the_destination_is_never_restored_again() -> None:
    for source, destination, decision in cases():
        if (
            destination is not None
            and was_let_go(destination)
            and destination.tasks is Tasks.GONE
            and decision.destination is DestinationAction.ACTIVATE
        ):
            assert decision.outcome is Outcome.ENDED, (source, destination)


def test_never_is_the_last_copy_given_up() -> None:
    """A copy that is alive somewhere ends up running, or is left as it is."""
    for source, destination, decision in cases():
        source_alive = source.same_boot and source.tasks is not Tasks.GONE
        holds = (
            destination is not None
            and destination.reached is Landing.HELD
            and destination.pending is None
            and destination.holds
        )
        committed = source.reached in (Phase.COMMITTED, Phase.DONE)
        if not is_possible(source, destination) or committed:
            continue
        if Phase.ROLLED_BACK in (source.reached, source.pending):
            continue
        if source_alive or holds:
            assert decision.outcome in (Outcome.ON_SOURCE, Outcome.ON_DESTINATION)


def test_a_commit_is_carried_out_where_the_copy_is_held_and_else_the_source_s_is_kept() -> None:
    for source, destination, decision in cases():
        if source.reached is not Phase.COMMITTED or destination is None:
            continue
        if source.pending is not None:
            continue
        if destination.reached in (Landing.HELD, Landing.COMMITTED) and not (
            was_let_go(destination) or destination.pending
        ):
            alive = source.same_boot and source.tasks is not Tasks.GONE
            expected = Outcome.ON_SOURCE if alive else Outcome.LOST
            if destination.holds:
                expected = Outcome.ON_DESTINATION
            assert decision.outcome is expected, (source, destination)


def test_nobody_guesses_while_the_word_that_counts_cannot_be_had() -> None:
    for source, destination, decision in cases():
        if (
            destination is None
            and source.reached is Phase.COMMITTED
            and source.pending is not Phase.ROLLED_BACK
            and not source.confirmed
        ):
            assert decision.outcome is Outcome.WAITING
            assert decision.source is SourceAction.NOTHING


def test_contradictions_and_losses_touch_no_running_container() -> None:
    for source, destination, decision in cases():
        if decision.outcome in (Outcome.CONTRADICTION, Outcome.WAITING):
            assert decision.source is SourceAction.NOTHING, (source, destination)
            assert decision.destination is DestinationAction.NOTHING, (source, destination)


def test_journals_that_followed_the_commit_order_never_contradict_each_other() -> None:
    for source, destination, decision in cases():
        if is_possible(source, destination):
            assert decision.outcome is not Outcome.CONTRADICTION, (source, destination)


def test_an_interrupted_recovery_decides_the_same_again() -> None:
    """After the source's record of the decision, the same decision comes out."""
    for source, destination, decision in cases():
        if decision.source is SourceAction.ROLL_BACK:
            again = decide(
                SourceView(
                    source.reached,
                    Phase.ROLLED_BACK,
                    source.tasks,
                    source.same_boot,
                    source.confirmed,
                ),
                destination,
            )
            assert again.source is SourceAction.ROLL_BACK, (source, destination)
        elif decision.source is SourceAction.COMMIT:
            again = decide(
                SourceView(Phase.COMMITTED, None, source.tasks, source.same_boot), destination
            )
            assert again.source in (SourceAction.CLEAN_UP, SourceAction.NOTHING)
            assert again.destination is decision.destination, (source, destination)


def test_a_committed_source_that_goes_on_knows_that_the_other_side_waits() -> None:
    assert SourceView(Phase.COMMITTED, None, Tasks.FROZEN).destination_may_hold


def test_a_restart_that_lost_the_last_records_does_not_give_up_what_may_be_held() -> None:
    source = SourceView(Phase.COPYING, Phase.FROZEN, Tasks.GONE, same_boot=False)
    assert decide(source, None).outcome is Outcome.WAITING


def test_a_held_copy_is_not_let_go_beside_one_that_was_made_anew() -> None:
    source = SourceView(Phase.SENT, None, Tasks.GONE, same_boot=False, is_replaced=True)
    held = DestinationView(Landing.HELD, None, Tasks.FROZEN)
    assert decide(source, held).outcome is Outcome.CONTRADICTION
