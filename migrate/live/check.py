"""`migrate check`: the checks of a migration, and nothing after them.

Lives here: what is looked at for which question. Must not live here: the checks
(`preflight`). Imported by `migrate.cli`.

    no container, no host     this machine: can it be a source or a destination?
    a host                    both machines
    a container               what of it could not follow anywhere
    a container and a host    what `migrate live` would say before it touches anything
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from migrate.events import Checked, Finding, emit
from migrate.live import preflight, subject
from migrate.live.host_facts import gather
from migrate.live.reach import Way, reach
from migrate.live.volumes.mapping import Wanted
from migrate.live.volumes.travel import Travel
from migrate.runtime.state import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user asks.

    Attributes:
        container_id: or None for the machines alone.
        way: to the other host, or None for this one alone.
        bundle: path over there; as here if None.
        criu: as given by --criu.
        bridges: those the container is on, and what stands for them over there.
        wanted: what else is called otherwise over there.
    """

    container_id: str | None
    store: Store
    way: Way | None
    bundle: str | None = None
    criu: str | None = None
    bridges: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)


def check(order: Order) -> bool:
    """Look, emit every finding and the sum of them; return whether nothing is refused.

    Raises:
        MigrateError: the container is not there, or the other host cannot be reached.
    """
    found = None
    if order.container_id is not None:
        found = subject.find(order.store, order.container_id).with_bridges(order.bridges)
    bundle = order.bundle or (found.record["bundle"] if found else "/")
    destination = ""
    if order.way is None:
        here = gather(criu=order.criu, bundle=bundle, root=order.store.root)
        findings = preflight.look_here(here, found, thorough=True)[1]
    else:
        with reach(order.way) as reached:
            destination = reached.peer.host
            findings = preflight.consult(
                reached,
                found,
                gather(criu=order.criu, root=order.store.root),
                bundle=bundle,
                thorough=True,
            ).findings
            if found is not None:
                findings += Travel(order.wanted, found, bundle).consult(reached)
    for each in findings:
        emit(each)
    emit(
        Checked(
            container=order.container_id or "",
            source=os.uname().nodename,
            destination=destination,
            warnings=_count(findings, "warn"),
            refusals=_count(findings, "refuse"),
        )
    )
    return not _count(findings, "refuse")


def _count(findings: list[Finding], verdict: str) -> int:
    return sum(each.verdict == verdict for each in findings)
