"""The place a container would have on its destination: is it free?

Lives here: names, paths, process numbers and addresses, looked at on the destination.
Must not live here: taking them (`arrival`, `network.build`). `live` only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from migrate.errors import CgroupError, MigrateError, NetworkError, ProtocolError, Refused
from migrate.events import Finding
from migrate.live import arrival
from migrate.live.comparison import finding
from migrate.live.host_facts import HostFacts
from migrate.live.needs import Needs
from migrate.live.network import links, ports
from migrate.live.network.build import refuse_taken
from migrate.live.network.describe import route_socket
from migrate.live.network.probe import Probe
from migrate.runtime import cgroup
from migrate.runtime.state import Store

# Who has an address on the same segment answers within a few milliseconds; a person who
# asks can wait for slower ones.
_ANSWER_SECONDS = 0.02
_PATIENT_SECONDS = 0.2


class Questions:
    """What is asked of the network while the rest is looked at.

    Args:
        needs: whose addresses are asked for, if there are any.
        is_patient: wait for slow answers, too.
    """

    def __init__(self, needs: Needs | None, *, is_patient: bool) -> None:
        self._seconds = _PATIENT_SECONDS if is_patient else _ANSWER_SECONDS
        self._wanted = needs.addresses if needs is not None else {}
        self._stack = ExitStack()
        self._asked = 0.0

    def __enter__(self) -> Self:
        bridges = {address: each["bridge"] for address, each in self._wanted.items()}
        self._probe = self._stack.enter_context(Probe(bridges))
        self._asked = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def answers(self) -> dict[str, set[str]]:
        """Return the hardware addresses of who has each address."""
        if not self._wanted:
            return {}
        left = self._asked + self._seconds - time.monotonic()
        return self._probe.answers(max(left, 0.0))


def judge(
    here: HostFacts, needs: Needs, store: Store, bundle: str, questions: Questions
) -> list[Finding]:
    """Return what is found of the container's place on this host.

    Args:
        bundle: path it would have.
        questions: asked a while ago.
    """
    return [
        *_names(here, needs, store, bundle),
        *_processes(here, needs),
        *_network(here, needs, questions),
    ]


def _names(here: HostFacts, needs: Needs, store: Store, bundle: str) -> Iterator[Finding]:
    """The id, the bundle and the control groups are nobody's."""
    if store.exists(needs.container_id):
        yield finding(
            "id",
            "refuse",
            f'a container "{needs.container_id}" already exists on {here.name}',
            f"Run `migrate delete {needs.container_id}` there first.",
        )
        return
    try:
        place = arrival.choose(
            store,
            needs.container_id,
            migration="",
            bundle=bundle,
            cgroups_path=needs.cgroups_path or None,
            source="",
        )
        cgroup.refuse_occupied(place.cgroup)
    except Refused as error:
        yield finding("bundle", "refuse", f"{here.name}: {error.message}", error.hint)
    except CgroupError as error:
        yield finding("cgroups", "refuse", f"{here.name}: {error.message}", error.hint)
    else:
        yield finding("id", "ok", f"id, bundle and control group are free on {here.name}")


def _processes(here: HostFacts, needs: Needs) -> Iterator[Finding]:
    """Numbers it has in its host's own process namespace are free."""
    taken = [pid for pid in needs.pids if os.path.exists(f"/proc/{pid}")]
    if taken:
        yield finding(
            "pids",
            "refuse",
            f"the container shares its host's process numbers, and {taken[0]} is taken on "
            f"{here.name}{f' (and {len(taken) - 1} more)' if len(taken) > 1 else ''}",
            "Give the container a pid namespace.",
        )
    elif needs.pids:
        yield finding(
            "pids",
            "warn",
            "the container shares its host's process numbers: they must still be free when it "
            "arrives",
            "Give the container a pid namespace.",
        )


def _network(here: HostFacts, needs: Needs, questions: Questions) -> Iterator[Finding]:
    """Its namespace's path and its addresses are free."""
    if needs.namespace_path:
        try:
            refuse_taken(needs.namespace_path)
        except NetworkError as error:
            yield finding("network", "refuse", error.message, error.hint)
        except (OSError, MigrateError) as error:
            yield finding("network", "refuse", f"{here.name}: {needs.namespace_path}: {error}")
    own = _own_addresses()
    yield from _ports(here, needs, own)
    answers = questions.answers()
    for address, each in needs.addresses.items():
        others = sorted(answers.get(address, set()) - {each["mac"]})
        if address in own:
            yield finding(
                "network",
                "refuse",
                f"address {address} of the container is {here.name}'s own, on {own[address]}",
                "Take it from there, or give the container another one.",
            )
        elif others:
            # Where the container itself is heard, too, it is one network, and lives with it.
            is_old = len(others) < len(answers[address])
            yield finding(
                "network",
                "warn" if is_old else "refuse",
                f"address {address} of the container is in use on bridge {each['bridge']} of "
                f"{here.name}, by {others[0]}",
                "Find who has it, or give the container another one.",
            )
        else:
            yield finding("network", "ok", f"address {address} is free on {here.name}")


def _ports(here: HostFacts, needs: Needs, own: Iterable[str]) -> Iterator[Finding]:
    """What it has on its host's own network can be had here.

    Raises:
        ProtocolError: the source names something else.
    """
    try:
        for port, owner in ports.taken(needs.ports):
            yield finding(
                "network",
                "refuse",
                f"port {port} of the container, which uses its host's network, is in use on "
                f"{here.name} by {owner}",
                "End that first, or give the container a network namespace.",
            )
        for port in ports.strange(needs.ports, own):
            yield finding(
                "network",
                "refuse",
                f"port {port} of the container is bound to an address that {here.name} does not "
                "have",
                "Let the program listen on all addresses, or give the container a network "
                "namespace.",
            )
    except ValueError as error:
        raise ProtocolError(f"preflight: {error}") from None


def _own_addresses() -> dict[str, str]:
    """Return this namespace's addresses, and the link each is on."""
    sock = route_socket()
    try:
        names = {link.index: link.name for link in links.links(sock)}
        return {
            each.address: names.get(index, "?")
            for index, found in links.addresses(sock).items()
            for each in found
        }
    finally:
        sock.close()
