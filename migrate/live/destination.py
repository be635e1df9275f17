"""The destination's side of one migration, as the calls it answers.

Lives here: what each call does, and the journal around it. Must not live here: the
queue the calls come from (`live.agent`), the making of things (`live.arrival`,
`live.incoming`). `live` only.

One thread calls this, one call at a time; it alone writes the journal. A call that
fails leaves the phase as it was: the source then says `discard`, or, if it cannot, the
agent gives up by itself. Once HELD it does neither without the source's word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from migrate.checkpoint import wholeness
from migrate.checkpoint.failure import was_refused
from migrate.checkpoint.restore import LOG_NAME
from migrate.errors import (
    Locked,
    Lost,
    MigrateError,
    MigrationError,
    ProtocolError,
)
from migrate.events import Log, PhaseEntered, emit
from migrate.live import arrival, clocks, guard, preflight
from migrate.live.arrival import Place
from migrate.live.completing import Completing
from migrate.live.decision import DestinationView, Tasks
from migrate.live.incoming import Announced, Incoming
from migrate.live.journal import Journal, folder_of
from migrate.live.network.plan import Plan
from migrate.live.network.switch import switches_of
from migrate.live.phases import GIVES_UP_ALONE, MESSAGES, Landing
from migrate.live.reality import look_at_tasks, stamp, wait_for_criu_in
from migrate.live.terminal import put_before
from migrate.live.views import view_to_json
from migrate.live.volumes.look import digests, look
from migrate.live.wire import PROBE, PROBE_BYTES, Fields
from migrate.runtime import cgroup
from migrate.runtime.state import Store
from migrate.transport.link import Link

WHOLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the agent's own command line says."""

    store: Store
    journals: str
    criu: str | None


class Destination:
    """One migration's destination; without one yet, until `reserve` or `attach`.

    Args:
        wake: called, in another thread, when `must_wait` may have changed.
    """

    def __init__(
        self, settings: Settings, link: Link | None, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._wake = wake
        self._completing: Completing | None = None
        self._link = link
        self._journal: Journal | None = None
        self._place: Place | None = None
        self._incoming: Incoming | None = None
        self._looking: preflight.Looking | None = None
        self._methods: dict[str, Callable[[Fields], object]] = {
            "ping": lambda _: clocks.read(),
            "look": self._look,
            "preflight": self._preflight,
            "volumes": lambda fields: look(fields.value, settings.store),
            "digests": lambda fields: digests(fields.value),
            "probe": self._probe,
            "reserve": self._reserve,
            "receive": self._receive,
            "await_images": self._await_images,
            "restore": self._restore,
            "commit": self._commit,
            "discard": self._discard,
            "await_whole": self._await_whole,
            "forget": self._forget,
            "status": self._status,
        }

    # What the agent asks.

    @property
    def folder(self) -> str | None:
        """The migration's folder, once there is one."""
        return self._journal.folder if self._journal is not None else None

    @property
    def reached(self) -> Landing | None:
        """The last phase in the journal."""
        reached = self._journal.reached if self._journal is not None else None
        return reached if isinstance(reached, Landing) else None

    @property
    def must_wait(self) -> bool:
        """Whether only the source may say how it goes on, or memory is still filled in."""
        is_whole = self._completing is None or self._completing.is_over
        return self.reached in (Landing.HELD, Landing.COMMITTED) or not is_whole

    def call(self, method: str, value: object) -> object:
        """Answer a call.

        Raises:
            ProtocolError: it is unknown, or out of turn.
            MigrateError: what it asked for failed.
        """
        message, run = MESSAGES.get(method), self._methods.get(method)
        if message is None or run is None:
            raise ProtocolError(f"{method}: unknown here", "Use the same version on both hosts.")
        if self.reached not in message.after:
            reached = self.reached.value if self.reached else "nothing"
            raise ProtocolError(f"{method}: out of turn, {reached} was reached")
        return run(Fields(method, value))

    @property
    def source(self) -> str:
        """The name of the host it comes from."""
        return self._place.source if self._place is not None else "the source"

    def give_up(self) -> None:
        """Leave nothing of a migration that never was held."""
        if self._journal is not None and self.reached in GIVES_UP_ALONE:
            self.discard()

    def attach(self, container_id: str, timeout_seconds: float) -> bool:
        """Take over a migration whose agent is gone; returns whether there is one.

        Raises:
            Locked: its agent is not gone.
        """
        folder = self._folder_for(container_id)
        try:
            journal = Journal.open("destination", folder, timeout_seconds)
        except FileNotFoundError:
            return False
        place = journal.fact("place")
        self._journal = journal
        if place is not None:
            self._place = Place.from_json(place)
        return True

    def detach(self) -> None:
        """Let go of a migration, such that another process may have it."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    # The calls.

    def _look(self, fields: Fields) -> object:
        del fields
        self._begin_to_look()
        return None

    def _begin_to_look(self) -> preflight.Looking:
        if self._looking is None:
            settings = self._settings
            self._looking = preflight.Looking(settings.criu, settings.store.root)
        return self._looking

    def _preflight(self, fields: Fields) -> object:
        return preflight.look_there(
            fields.object("question"),
            here=self._begin_to_look().result(),
            store=self._settings.store,
            bundle=fields.text("bundle"),
        )

    def _probe(self, fields: Fields) -> object:
        del fields
        if self._link is None:
            raise ProtocolError("probe: asked by nobody")
        with self._link.accept_stream(PROBE, max_bytes=PROBE_BYTES) as stream:
            for _ in stream:
                pass
        return None

    def _reserve(self, fields: Fields) -> object:
        container_id = fields.text("container")
        store = self._settings.store
        self._clear_leftover(container_id)
        place = arrival.choose(
            store,
            container_id,
            migration=fields.text("migration"),
            bundle=fields.text("bundle"),
            cgroups_path=fields.optional_text("cgroups_path"),
            source=fields.text("source"),
            stowage=fields.value.get("stowage"),
        )
        self._journal = Journal.create("destination", self._folder_for(container_id))
        self._place = place
        self._journal.intend(
            Landing.RESERVED,
            container=container_id,
            root=store.root,
            place=place.to_json(),
        )
        try:
            arrival.reserve(store, place, {})
        except MigrateError:
            self.discard()  # of an id that is somebody else's nothing is ours
            raise
        self._enter(Landing.RESERVED)
        return {"bundle": place.bundle}

    def _clear_leftover(self, container_id: str) -> None:
        """Discard what an agent that was killed before it held anything has left."""
        try:
            if not self.attach(container_id, 0.0):
                return
        except Locked:
            return  # Journal.create says by whom
        if self.reached in (*GIVES_UP_ALONE, Landing.DISCARDED):
            self.discard()
        else:
            self.detach()

    def _receive(self, fields: Fields) -> object:
        journal, place = self._open()
        if self._incoming is not None or self._link is None:
            raise ProtocolError("receive: was called before, or by nobody")
        announced = Announced.of(fields)
        incoming = Incoming(self._link, place, announced, self._settings.criu)
        self._incoming = incoming
        incoming.make(
            lambda facts: journal.intend(
                Landing.RECEIVING,
                network=facts,
                record=announced.record,
                paused=announced.paused,
            )
        )
        self._enter(Landing.RECEIVING)
        return None

    def _await_images(self, fields: Fields) -> object:
        del fields
        self._received().await_images()
        return None

    def _restore(self, fields: Fields) -> object:
        journal, incoming = self._open()[0], self._received()
        journal.intend(Landing.VERIFIED, durable=False)
        inventory = incoming.verify(fields.text("manifest"))
        self._enter(Landing.VERIFIED, durable=False)
        journal.intend(Landing.HELD, durable=False)
        pid = incoming.restore(inventory)
        self._enter(Landing.HELD, stamp("pid", pid))
        return {"pid": pid}

    def _commit(self, fields: Fields) -> object:
        journal, place = self._open()
        if unread := fields.optional_text("unread"):
            put_before(self._settings.store.path(place.container_id), unread)
        if self.reached is Landing.HELD:
            self._enter(Landing.COMMITTED, durable=False)
        resume_seconds, ended = None, False
        view = self.look()
        if view.may_have_run:
            ended = view.tasks is Tasks.GONE
            if not ended:
                self._connect(journal)
                if journal.fact("paused") is True:
                    cgroup.freeze(place.cgroup)
        else:
            resume_seconds = self._let_go(journal, place)
        self._settle(journal, place)
        self._enter(Landing.ACTIVE)
        if self._incoming is not None:
            self._complete(self._incoming, place)
            self._incoming = None
        arrival.remove_images(place)
        return {"resume_seconds": resume_seconds, "ended": ended}

    def _complete(self, incoming: Incoming, place: Place) -> None:
        """Let go of what made it, at once or when all of its memory is in its place."""
        incoming.settle()
        folder = self._settings.store.path(place.container_id)
        try:
            is_whole = incoming.is_whole(0.0)
        except MigrateError:
            is_whole = False  # it runs all the same; who waits for the rest is told why
        if is_whole:
            wholeness.forget(folder)
            incoming.close()
        else:
            self._completing = Completing(incoming, folder, self._wake)

    def _await_whole(self, fields: Fields) -> object:
        del fields
        return self._completing is None or self._completing.wait(WHOLE_SECONDS)

    def _let_go(self, journal: Journal, place: Place) -> float:
        """Have the tasks run.

        Raises:
            MigrationError: what was held is gone and has never run; the source has the
                container still.
            Lost: it may have run, and is gone.
        """
        incoming = self._incoming
        if incoming is None or not incoming.is_held:
            raise MigrationError(
                f'what was held here of container "{place.container_id}" is gone',
                f"Run `migrate recover {place.container_id}` on {place.source}.",
            )
        journal.intend(Landing.ACTIVE)
        try:
            return incoming.let_go()
        except MigrateError as error:
            message = f"criu failed while it let the container go: {error.message}"
            if incoming.may_have_run:
                raise Lost(message, f"Look at {place.images}/{LOG_NAME}.") from error
            journal.intend(Landing.ACTIVE, refused=True)
            raise MigrationError(message, f"Look at {place.images}/{LOG_NAME}.") from error

    def _connect(self, journal: Journal) -> None:
        """Bring the links up: who let the container go may have died before it came to it."""
        try:
            plan = Plan.from_json(journal.fact("network")["plan"])
            with switches_of(plan, journal.fact("pid"), is_ours=True) as switches:
                switches.up()
        except MigrateError as error:
            emit(Log(level="warning", message=f"network: {error.message}"))

    def _settle(self, journal: Journal, place: Place) -> None:
        """Make it a container like any other here."""
        store = self._settings.store
        arrival.free_reserve(place)
        pid, start_ticks = journal.fact("pid"), journal.fact("pid_start_ticks")
        record = arrival.record_of(place, journal.fact("record"), "started", pid, start_ticks)
        if place.stowed.overlay is not None:
            record["mounted"] = [place.rootfs]
        with open(f"{place.bundle}/{arrival.CONFIG}", "rb") as file:
            arrival.replace_file(f"{store.path(place.container_id)}/{arrival.CONFIG}", file.read())
        if self._incoming is not None:
            self._incoming.note_missing(store.path(place.container_id))
        store.save(record)
        guard.mark_bundle(place.bundle, place.container_id)
        guard.take(store, place.container_id)

    def _discard(self, fields: Fields) -> object:
        del fields
        self.discard()
        return None

    def discard(self) -> None:
        """Leave nothing of the migration."""
        journal, place, store = self._journal, self._place, self._settings.store
        if journal is None:
            return
        if journal.pending is Landing.ACTIVE and self.look().may_have_run:
            raise ProtocolError("discard: it may have run here")
        if journal.reached is not Landing.DISCARDED:
            journal.intend(Landing.DISCARDED)
        if self._incoming is not None:
            self._incoming.stop()
            self._incoming = None
        if place is not None:
            arrival.undo(store, place, journal.fact("network"))
        if journal.reached is not Landing.DISCARDED:
            journal.enter(Landing.DISCARDED)
            emit(PhaseEntered(side="destination", phase=Landing.DISCARDED.value))
        journal.remove()
        self._journal = self._place = None

    def _forget(self, fields: Fields) -> object:
        del fields
        if self._journal is not None:
            if self._place is not None:  # left by an agent that was killed right after ACTIVE
                arrival.remove_images(self._place)
            self._journal.remove()
            self._journal = self._place = None
        return None

    def _status(self, fields: Fields) -> object:
        del fields
        return view_to_json(self.look()) if self._journal is not None else None

    def look(self) -> DestinationView:
        """Return this side as it is."""
        journal, place = self._open()
        pending = journal.pending
        is_held = self._incoming is not None and self._incoming.is_held
        if not is_held:
            wait_for_criu_in(place.cgroup)
        view = DestinationView(
            reached=self.reached,
            pending=pending if isinstance(pending, Landing) else None,
            tasks=Tasks.FROZEN if is_held else look_at_tasks(journal, place.cgroup),
            same_boot=journal.same_boot,
            was_refused=journal.fact("refused") is True
            or was_refused(f"{place.images}/{LOG_NAME}"),
        )
        if not is_held and not view.may_have_run and view.tasks is not Tasks.GONE:
            # Restored, and nobody is left who could let it go as it should be.
            cgroup.kill(place.cgroup)
            view = replace(view, tasks=Tasks.GONE)
        return view

    # Small things.

    def _enter(
        self, phase: Landing, facts: Mapping[str, object] | None = None, *, durable: bool = True
    ) -> None:
        journal, _ = self._open()
        journal.enter(phase, facts, durable=durable)
        emit(PhaseEntered(side="destination", phase=phase.value))

    def _open(self) -> tuple[Journal, Place]:
        if self._journal is None or self._place is None:
            raise ProtocolError("nothing is reserved here")
        return self._journal, self._place

    def _received(self) -> Incoming:
        if self._incoming is None:
            raise ProtocolError("nothing is being received here")
        return self._incoming

    def _folder_for(self, container_id: str) -> str:
        return folder_of(
            self._settings.journals, "destination", self._settings.store.root, container_id
        )
