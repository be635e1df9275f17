"""The source's side of one migration, from the first check to the last trace.

Lives here: the order of it all, and what happens when a step fails. Must not live
here: the frozen part (`live.frozen_copy`), how things end (`live.departure`), recovery
(`live.recover`). Imported by `migrate.cli`.

    PREPARED    host reached, both sides checked, id and bundle taken over there
    COPYING     files sent while it runs; over there all is made, and CRIU waits
    FROZEN      frozen_copy: fence, dump, images, HELD over there
    COMMITTED   frozen_copy: said, heard, running over there
    DONE        nothing of it is left here

Up to COMMITTED every error leads to ROLLED_BACK: it runs on here, and the other side
is told. From there on every error leads to `live.recover`'s way of finishing, which asks
the other side; if that has lost its copy before it ever ran, it runs on here after all.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from migrate.checkpoint.facts import Facts
from migrate.checkpoint.locate import find_criu
from migrate.errors import (
    Locked,
    MigrateError,
    Refused,
    RolledBack,
    TransportError,
    Undecided,
    WrongStatus,
)
from migrate.events import Log, PhaseEntered, Report, emit
from migrate.live import guard, preflight, recover, report
from migrate.live.departure import Departure, work_folder
from migrate.live.frozen_copy import FrozenCopy
from migrate.live.hearing import counted, relay
from migrate.live.interruption import Interruptions
from migrate.live.journal import Journal, folder_of
from migrate.live.network.plan import Plan
from migrate.live.network.switch import switches_of
from migrate.live.order import Order
from migrate.live.phases import Phase
from migrate.live.reach import Reached, measure_round_trips, reach
from migrate.live.reality import is_alive
from migrate.live.report import Bytes, Timeline
from migrate.live.sending_memory import choose_for, copy_running, sending, stream_of
from migrate.live.subject import Subject, find
from migrate.live.unread import Unread
from migrate.live.volumes.travel import Travel
from migrate.runtime import state

if TYPE_CHECKING:
    from migrate.runtime.state import Record

CALL_SECONDS = 60.0
TELL_SECONDS = 5.0
# A source that committed tries so long to hear that the other side runs.
FINISH_SECONDS = 30.0


def migrate(order: Order) -> dict[str, Any]:
    """Move a container; return the report, which is emitted too.

    Raises:
        RolledBack: it failed, and the container runs on here.
        Refused: a check said no before anything was touched.
        Undecided: it is not known how it ended; `recover` settles it.
        MigrateError: it could not begin.
    """
    record = order.store.load(order.container_id)
    status = state.status(record)
    if status not in ("running", "paused"):
        raise WrongStatus(
            f'container "{order.container_id}" is {status}, and only a running or paused one moves'
        )
    folder = folder_of(order.journals, "source", order.store.root, order.container_id)
    _clear_finished(folder)
    with Interruptions() as interruptions, Journal.create("source", folder) as journal:
        return Migration(order, record, status, journal, interruptions).run()


def _clear_finished(folder: str) -> None:
    """Remove what a migration that was rolled back left for the other side's sake.

    Where the other side may still hold something, it stays, and stands in the way.
    """
    with contextlib.suppress(FileNotFoundError, Locked), Journal.open("source", folder) as journal:
        if journal.reached is Phase.ROLLED_BACK and journal.fact("may_hold") is False:
            journal.remove()


class Migration:
    """One run of it."""

    def __init__(
        self,
        order: Order,
        record: Record,
        status: str,
        journal: Journal,
        interruptions: Interruptions,
    ) -> None:
        self.order = order
        self.record = record
        self.was_paused = status == "paused"
        self.journal = journal
        self.interruptions = interruptions
        self.migration = uuid.uuid4().hex
        self.strategy = order.strategy
        self.timeline = Timeline()
        self.transfers: dict[str, Bytes] = {}
        self.criu = ""
        self.plan: Plan = Plan(kind="host")
        self.departure: Departure | None = None
        self._unread: Unread | None = None
        self._has_asked = False
        self._was_told = False

    def run(self) -> dict[str, Any]:
        """Do it; whatever happens, end in a state that can be explained."""
        try:
            try:
                with (
                    preflight.Looking(self.order.criu, self.order.store.root) as looking,
                    reach(self.order.way) as reached,
                ):
                    try:
                        return self._over(reached, looking)
                    except BaseException as error:
                        self._stand_still(error, reached)
                        raise
            except BaseException as error:
                if self._end(error):
                    return {}
                raise self._explained(error) from error
        finally:
            self.journal.close()
            if self.departure is not None:
                self.departure.close()
            if self._unread is not None:
                self._unread.close()

    # The way it should go.

    def _over(self, reached: Reached, looking: preflight.Looking) -> dict[str, Any]:
        order, link, journal = self.order, reached.link, self.journal
        link.on_event(lambda event: relay(event, reached.peer.host))
        self.timeline.mark("connected")
        preflight.foretell(reached)
        self.criu = find_criu(order.criu)
        found = find(order.store, order.container_id)
        facts, self.plan = found.facts, found.plan
        self.strategy = choose_for(order.strategy, facts, order.limits, is_paused=self.was_paused)
        subject = replace(found, plan=self._plan_there(), files=order.files)
        travel = Travel(order.wanted, subject, self._bundle())
        self._check(reached, looking, travel, subject)
        round_trips = measure_round_trips(link)
        self.departure = self._depart(travel.left)
        if facts.terminal:
            self._unread = Unread(facts.pid)
        self._prepare(reached, travel, found.spec)
        link.call("receive", self._receive_value(travel, found.config, facts), CALL_SECONDS)
        journal.intend(Phase.COPYING)
        with travel.trees(link) as tree:
            sent = tree.run()
            self.transfers["rootfs"] = Bytes(sent.content_bytes, sent.wire_bytes)
            memory = sending(self.strategy, link, facts, order.limits, is_paused=self.was_paused)
            with contextlib.closing(memory):
                copy_running(link, memory)
                self.enter(Phase.COPYING)
                work = work_folder(order.store, order.container_id)
                copy = FrozenCopy(self, reached, facts, tree, memory, work)
                resume_seconds = copy.run()
        self._finish(reached)
        result = report.build(
            self.timeline,
            report.Move(
                container=order.container_id,
                migration=self.migration,
                hosts=(os.uname().nodename, reached.peer.host),
                strategy=self.strategy,
            ),
            round_trips=round_trips,
            resume_seconds=resume_seconds,
            transfers=self.transfers,
            wire_bytes=link.traffic.sent_bytes + link.traffic.received_bytes,
        )
        emit(Report(report=result))
        return result

    def _check(
        self, reached: Reached, looking: preflight.Looking, travel: Travel, subject: Subject
    ) -> None:
        """Ask both sides; refuse before anything is touched."""
        here = looking.result()
        outcome = preflight.consult(reached, subject, here, bundle=self._bundle())
        outcome.findings.extend(travel.consult(reached))
        for finding in outcome.findings:
            emit(finding)
        if outcome.refusals:
            raise Refused(counted(outcome.refusals), outcome.refusals[0].hint)

    def _prepare(self, reached: Reached, travel: Travel, spec: Any) -> None:
        """Record whom we ask, then ask; both before anything is taken."""
        order = self.order
        self._keep_others_away(travel.left)
        self._has_asked = True
        linux = spec.get("linux") or {}
        reached.link.call(
            "reserve",
            {
                "container": order.container_id,
                "migration": self.migration,
                "bundle": self._bundle(),
                "cgroups_path": linux.get("cgroupsPath"),
                "source": os.uname().nodename,
                "stowage": travel.stowage(),
            },
            CALL_SECONDS,
        )
        self.enter(Phase.PREPARED)
        self.timeline.mark("prepared")

    def _keep_others_away(self, volumes: list[str]) -> None:
        """Record what is moved, and guard it; no other command is at work on it then.

        Args:
            volumes: paths outside the bundle that go along.

        Raises:
            Locked: one is, and does not end.
            WrongStatus: one has changed it since we looked.
        """
        order, record = self.order, self.record
        with order.store.lock(order.container_id, command="migrate live"):
            now = order.store.load(order.container_id)
            expected = "paused" if self.was_paused else "running"
            if state.status(now) != expected or now["pid"] != record["pid"]:
                raise WrongStatus(
                    f'container "{order.container_id}" was changed by another command meanwhile',
                    "Look at it, and try again.",
                )
            self.journal.intend(
                Phase.PREPARED,
                migration=self.migration,
                container=order.container_id,
                root=order.store.root,
                bundle=record["bundle"],
                cgroup=record["cgroup"],
                pid=record["pid"],
                pid_start_ticks=record["pid_start_ticks"],
                was_paused=self.was_paused,
                way=order.way.to_json(),
                network=self.plan.to_json(),
                volumes=volumes,
            )
            guard.put(order.store, order.container_id, f"to {order.way.host}")

    def _depart(self, volumes: list[str]) -> Departure:
        return Departure(
            self.order.store,
            self.order.container_id,
            bundle=self.record["bundle"],
            process=(self.record["pid"], self.record["pid_start_ticks"]),
            paths=self.record["cgroup"],
            plan=self.plan,
            switches=switches_of(self.plan, self.record["pid"]),
            was_paused=self.was_paused,
            volumes=volumes,
        )

    def _receive_value(self, travel: Travel, config: bytes, facts: Facts) -> dict[str, Any]:
        kept = ("created", "oci_version", "annotations", "owner", "stdio", "terminal")
        record: dict[str, Any] = dict(self.record)
        return {
            "config": travel.config(config),
            "hooks": travel.arrival_hooks,
            "facts": facts.to_json(),
            "network": self._plan_there().to_json(),
            "paused": self.was_paused,
            "memory": stream_of(self.strategy),
            "migration": self.migration,
            "files": {str(number): path for number, path in self.order.files.items()},
            "record": {name: record[name] for name in kept},
        }

    def _finish(self, reached: Reached) -> None:
        """The other side runs it: leave nothing here, then let it forget."""
        if self.departure is None:
            raise AssertionError("committed before it was prepared")
        self.journal.intend(Phase.DONE, confirmed=True)
        self.departure.end()
        self._await_whole(reached)
        with contextlib.suppress(TransportError):
            reached.link.call("forget", {"container": self.order.container_id}, CALL_SECONDS)
            self._was_told = True
        self.timeline.mark("done")
        if self._was_told:
            self.enter(Phase.DONE)
            self.journal.remove()
            return
        container_id = self.order.container_id
        emit(
            Log(
                level="warning",
                message=f"{self.order.way.host} runs it, and could not be told that all is "
                f"well: run `migrate recover {container_id}` once it can be reached",
            )
        )

    def _await_whole(self, reached: Reached) -> None:
        """Wait until all of its memory is in its place over there; it runs meanwhile.

        Raises:
            MigrationError: it stands still over there for want of memory.
        """
        name = {"container": self.order.container_id}
        with contextlib.suppress(TransportError):
            while reached.link.call("await_whole", name, CALL_SECONDS) is not True:
                pass
        self.timeline.mark("whole")

    # What the frozen part asks for.

    @property
    def has_links(self) -> bool:
        """Whether taking links down keeps every packet away."""
        return self.departure is not None and self.departure.has_links

    def cut(self) -> None:
        """Take the container's links down."""
        if self.departure is not None:
            self.departure.fence.cut()

    def unread_output(self) -> str:
        """Return what nobody has read of its terminal, in base64; only after the commit."""
        return base64.b64encode(self._unread.take()).decode() if self._unread else ""

    def commit(self) -> None:
        """Decide: it lives on over there. A signal that came before this still counts.

        Raises:
            Interrupted: one had.
            MigrationError: it could not be recorded, so nothing is decided.
        """
        self.interruptions.defer()
        self.enter(Phase.COMMITTED)

    # The ways it should not.

    @property
    def is_committed(self) -> bool:
        """Whether the point of no return is behind."""
        return self.journal.reached in (Phase.COMMITTED, Phase.DONE)

    def _stand_still(self, error: BaseException, reached: Reached) -> None:
        """Roll back, while the link may still be there to tell the other side."""
        with contextlib.suppress(MigrateError):
            self.interruptions.defer()
        if self.is_committed:
            return
        self._roll_back(error)
        if self._has_asked:
            with contextlib.suppress(TransportError, MigrateError):
                self._tell(reached)

    def _roll_back(self, error: BaseException) -> None:
        """It runs on here, from now on for good, and is any command's again."""
        if not self.journal.records or self.journal.reached is Phase.ROLLED_BACK:
            return
        if self.journal.pending is not Phase.ROLLED_BACK:
            self.journal.intend(Phase.ROLLED_BACK, why=str(error), may_hold=self._may_hold())
        if self.departure is not None:
            self.departure.go_on(self.departure.look(self.journal).tasks)
        self.enter(Phase.ROLLED_BACK)

    def _may_hold(self) -> bool:
        return any(record.phase is Phase.SENT for record in self.journal.records)

    def _tell(self, reached: Reached) -> None:
        reached.link.call("discard", {"container": self.order.container_id}, CALL_SECONDS)
        self._was_told = True

    def _end(self, error: BaseException) -> bool:
        """Close the journal as far as it can be closed now; returns whether it has moved."""
        with contextlib.suppress(MigrateError):
            self.interruptions.defer()
        if self.is_committed:
            return self._finish_by_recovery(error)
        self._roll_back(error)
        if not self._has_asked:
            self.journal.remove()
            return False
        if not self._was_told:
            with (
                contextlib.suppress(TransportError, MigrateError),
                reach(recover.hasty(self.order.way, TELL_SECONDS)) as again,
            ):
                self._tell(again)
        if self._was_told or not self._may_hold():
            self.journal.remove()
        return False

    def _finish_by_recovery(self, error: BaseException) -> bool:
        """Committed: reach the other side again, and go on from the journals."""
        emit(Log(level="warning", message=f"after the commit: {error}; asking again"))
        deadline = time.monotonic() + FINISH_SECONDS
        while True:
            try:
                recover.settle(self.journal, self.order.store, self.order.way)
            except TransportError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(1.0)
            except Undecided:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(1.0)
            else:
                self._was_told = True
                return self.journal.reached is Phase.DONE

    def _explained(self, error: BaseException) -> BaseException:
        """Return what the user is told."""
        order = self.order
        if self.is_committed:
            return Undecided(
                f"it was committed, and {order.way.host} has not confirmed: {error}",
                f"Run `migrate recover {order.container_id}` once {order.way.host} can be reached.",
            )
        if isinstance(error, Refused) or not isinstance(error, Exception):
            return error
        # Some of Python's own, such as MemoryError, say nothing but their name.
        message = str(error) or type(error).__name__
        hint = error.hint if isinstance(error, MigrateError) else ""
        if not is_alive(self.record["pid"], self.record["pid_start_ticks"]):
            return RolledBack(
                f'container "{order.container_id}" ended while it was being migrated: {message}'
            )
        if not self._has_asked:
            return error
        if self._may_hold() and not self._was_told:
            hint = (
                f"Run `migrate recover {order.container_id}` once {order.way.host} can be "
                "reached: it may hold a frozen copy."
            )
        return RolledBack(f"{message}; it runs on here", hint)

    # Small things.

    def _plan_there(self) -> Plan:
        return self.plan.with_bridges(self.order.bridges)

    def _bundle(self) -> str:
        return self.order.bundle or self.record["bundle"]

    def enter(self, phase: Phase, *, durable: bool = True) -> None:
        """Record that a phase is reached, and say so."""
        self.journal.enter(phase, durable=durable)
        self.timeline.mark(phase.value.lower())
        emit(PhaseEntered(side="source", phase=phase.value))
