"""`migrate drain`: every container of this host, to other hosts.

Lives here: looking at all of them and at the hosts, and the queue. Must not live here:
who goes where (`placement`), how a migration is run beside others (`children`), one
migration (`source`). Imported by `migrate.cli`.

    survey    every container looked at once, every host asked about each of them
    place     by room and by what the hosts said; largest first
    move      so many at once, each a program of its own; one failure stops nothing else

A signal ends it at the next safe point: nothing more begins, a migration before its
commit rolls back, one behind it is finished.
"""

from __future__ import annotations

import collections
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from migrate.errors import MigrateError, MigrationError, UsageError
from migrate.events import Departed, Drained, Log, Placed, emit
from migrate.live import demands, preflight, subject
from migrate.live.children import Crew
from migrate.live.hearing import counted
from migrate.live.host_facts import HostFacts, gather
from migrate.live.needs import Needs
from migrate.live.placement import Demand, Disk, Offer, Room, place
from migrate.live.reach import Reached, Way, reach, shared
from migrate.live.subject import MOVABLE, Subject
from migrate.live.volumes.mapping import Wanted, data_of
from migrate.live.volumes.travel import Travel
from migrate.runtime import state
from migrate.runtime.state import Store

# Containers and where they go, in the order in which they begin.
Queue = collections.deque[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants.

    Attributes:
        ways: to the hosts.
        criu: as given by --criu.
        wanted: what is called otherwise over there, of all containers.
        parallel: how many migrations run at once, at most.
        command: this program with its options before the command's name.
        arguments: from a container, the way to its destination, and a file for --map, to
            the words of one migration.
    """

    store: Store
    ways: Sequence[Way]
    criu: str | None
    wanted: Wanted
    parallel: int
    command: Sequence[str]
    arguments: Callable[[str, Way, str], Sequence[str]]


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        failed: those that cannot even be looked at.
        subjects: the others.
        wanted: what of `Order.wanted` concerns each of these.
        needs: what each of these takes.
        rooms: the hosts that answered, by the user's name for them.
        ways: to these.
        offers: what each of them says to each container.
    """

    failed: list[Departed] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)
    wanted: dict[str, Wanted] = field(default_factory=dict)
    needs: dict[str, Needs] = field(default_factory=dict)
    rooms: dict[str, Room] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    offers: dict[tuple[str, str], Offer] = field(default_factory=dict)


def drain(order: Order) -> list[Departed]:
    """Move every running or paused container away; return how each fared.

    Raises:
        MigrationError: none of the hosts could be reached.
        UsageError: no container has a volume, or is on a bridge, that is named.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        departed = _drain(order, stack)
    emit(Drained(departed=departed, total_seconds=round(time.monotonic() - began, 6)))
    return departed


def _drain(order: Order, stack: ExitStack) -> list[Departed]:
    """Look, place and move.

    Args:
        stack: holds the connections until all is over.
    """
    found = survey(order, stack)
    departed = [_noted(each) for each in found.failed]
    wanted = [
        Demand(
            container=name,
            memory_bytes=demands.memory_needed(needs),
            disk_bytes=demands.disk_needed(needs),
            files=needs.rootfs_files,
        )
        for name, needs in found.needs.items()
    ]
    queue: Queue = collections.deque()
    for placed in place(wanted, found.rooms, found.offers):
        emit(Placed(container=placed.container, destination=placed.host, reason=placed.reason))
        if placed.host:
            queue.append((placed.container, placed.host))
        else:
            departed.append(
                _noted(
                    Departed(
                        container=placed.container,
                        destination="",
                        result="refused",
                        reason=placed.reason,
                        hint=f"Run `migrate check {placed.container} --to HOST` for all of it.",
                    )
                )
            )
    departed += move(order, queue, found)
    return departed


def _noted(departed: Departed) -> Departed:
    emit(departed)
    return departed


# --- looking ---


def survey(order: Order, stack: ExitStack) -> Survey:
    """Look at every container, and ask every host about each.

    Args:
        stack: takes the connections that migrations will go through.

    Raises:
        MigrationError: none of the hosts could be reached.
    """
    found = Survey()
    _look(order, found)
    if not found.subjects:
        return found
    here = gather(criu=order.criu, bundle="/", root=order.store.root)
    refused: dict[str, str] = {}
    for name, each in found.subjects.items():
        needs, findings = preflight.look_here(here, each)
        if needs is not None:
            found.needs[name] = needs
        refusals = [finding for finding in findings if finding.verdict == "refuse"]
        if refusals:
            refused[name] = counted(refusals)
    problems = []
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="migrate-ssh-"))
    for number, alone in enumerate(order.ways):
        try:
            way = stack.enter_context(shared(alone, f"{folder}/{number}"))
            with reach(way) as reached:
                found.ways[way.target] = way
                _ask(found, here, way, reached, refused)
        except MigrateError as error:
            problems.append(error)
            emit(Log(level="warning", message=f"{alone.host} takes none: {error.message}"))
    if not found.rooms:
        raise MigrationError(
            f"no host can be asked: {problems[0].message}", problems[0].hint
        ) from problems[0]
    return found


def _look(order: Order, found: Survey) -> None:
    """Look at every container that could move."""
    for name in order.store.ids():
        try:
            status = state.status(order.store.load(name))
            if status not in MOVABLE:
                emit(Log(level="info", message=f"{name} stays: it is {status}"))
                continue
            each = subject.find(order.store, name)
            wanted = _concerned(order.wanted, each)
            found.subjects[name], found.wanted[name] = each.with_bridges(wanted.bridges), wanted
        except MigrateError as error:
            found.failed.append(
                Departed(
                    container=name,
                    destination="",
                    result="failed",
                    reason=error.message,
                    hint=error.hint,
                )
            )
    _refuse_unknown(order.wanted, found)


def _concerned(wanted: Wanted, each: Subject) -> Wanted:
    """Return what of it is about one container."""
    binds = [mount for mount in each.facts.mounts if mount.kind == "bind"]
    names = {os.path.normpath(mount.source) for mount in binds}
    names |= {mount.destination for mount in binds}
    return replace(
        wanted,
        volumes={path: choice for path, choice in wanted.volumes.items() if path in names},
        bridges={here: there for here, there in wanted.bridges.items() if here in each.bridges},
    )


def _refuse_unknown(wanted: Wanted, found: Survey) -> None:
    """Refuse what is about none of them: its name may be wrong.

    Raises:
        UsageError: something is.
    """
    known: set[str] = set()
    for each in found.wanted.values():
        known |= each.volumes.keys() | each.bridges.keys()
    unknown = sorted((wanted.volumes.keys() | wanted.bridges.keys()) - known)
    if found.subjects and unknown:
        raise UsageError(
            f"no container has the volume, or is on the bridge, {unknown[0]}",
            "Compare the names with `migrate check ID`.",
        )


def _ask(
    found: Survey, here: HostFacts, way: Way, reached: Reached, refused: Mapping[str, str]
) -> None:
    """Ask one host about every container."""
    disks: dict[str, Disk] = {}
    memory = 0
    offers = {}
    for name, each in found.subjects.items():
        needs = found.needs[name]
        bundle = each.record["bundle"]
        outcome = preflight.ask(reached, here, needs, bundle=bundle)
        outcome.findings.extend(Travel(found.wanted[name], each, bundle).consult(reached))
        there = outcome.there
        disks[there.disk] = Disk(free_bytes=there.disk_bytes, files=there.disk_files)
        memory = there.memory_bytes
        refusals = outcome.refusals
        offers[name, way.target] = Offer(
            disk=there.disk,
            refusal=refused.get(name) or (counted(refusals) if refusals else ""),
            warnings=sum(finding.verdict == "warn" for finding in outcome.findings),
        )
    # Only a host that has answered for all of them is one.
    found.offers |= offers
    found.rooms[way.target] = Room(memory_bytes=memory, disks=disks)


# --- moving ---


def move(order: Order, queue: Queue, found: Survey) -> list[Departed]:
    """Move what is queued, so many at once; return how each fared."""
    departed: list[Departed] = []
    with Crew() as crew:
        while queue or len(crew):
            while queue and len(crew) < order.parallel and not crew.is_stopping:
                name, target = queue.popleft()
                file = crew.note(data_of(found.wanted[name]))
                words = order.arguments(name, found.ways[target], file)
                crew.begin(name, target, order.command, words)
            if crew.is_stopping:
                departed += [_noted(_not_begun(name, target)) for name, target in queue]
                queue.clear()
            if len(crew):
                departed += [_noted(each) for each in crew.wait()]
    return departed


def _not_begun(name: str, target: str) -> Departed:
    return Departed(
        container=name,
        destination=target,
        result="not begun",
        reason="interrupted; it runs on here",
    )
