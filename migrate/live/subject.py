"""A container that would move, as it is found.

Lives here: from an id to what the checks need. Must not live here: the checks
(`preflight`). `live` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from migrate.checkpoint.facts import Facts
from migrate.checkpoint.inspect import inspect
from migrate.checkpoint.wholeness import wait_until_whole
from migrate.errors import WrongStatus
from migrate.live.network.describe import describe
from migrate.live.network.plan import Plan
from migrate.runtime import state
from migrate.runtime.spec.decoding import decode
from migrate.runtime.state import Store

if TYPE_CHECKING:
    from migrate.runtime.state import Record

MOVABLE = ("running", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A container that would move.

    Attributes:
        spec: its decoded config.json.
        config: the same as bytes.
        plan: of its network, with the bridges of the host it would go to.
        files: paths over there that its standard output and error would go to.
    """

    record: Record
    spec: Mapping[str, Any]
    facts: Facts
    plan: Plan
    files: Mapping[int, str] = field(default_factory=dict)
    config: bytes = b""

    @property
    def bridges(self) -> set[str]:
        """Return the bridges its links are ports of."""
        return {each.place for each in self.plan.interfaces} - {""}

    def with_bridges(self, bridges: Mapping[str, str]) -> Subject:
        """Return it for a host on which other bridges stand for its own.

        Raises:
            NetworkError: it is not on one of them.
        """
        return replace(self, plan=self.plan.with_bridges(bridges))


def find(store: Store, container_id: str) -> Subject:
    """Look at a container, once all of its memory is there if it has just arrived.

    Raises:
        WrongStatus: it neither runs nor is paused.
        NetworkError: its network cannot be read.
        StateError: it is not there, or ended meanwhile.
    """
    record = store.load(container_id)
    status = state.status(record)
    if status not in MOVABLE:
        raise WrongStatus(
            f'container "{container_id}" is {status}, and only a running or paused one moves'
        )
    wait_until_whole(store.path(container_id), container_id)
    path = f"{store.path(container_id)}/config.json"
    with open(path, "rb") as file:
        config = file.read()
    spec: Any = decode(config, path)
    facts = inspect(record, spec)
    sysctls = (spec.get("linux") or {}).get("sysctl") or {}
    network = facts.network
    plan = describe(facts.pid, network.kind, path=network.path, more_sysctls=sysctls)
    return Subject(record=record, spec=spec, facts=facts, plan=plan, config=config)
