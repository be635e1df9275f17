"""What both sides ask of CRIU, and the restore made ready on the destination.

Lives here: the request, which dump and restore must agree on, and what takes the place
of the things that were outside the container. Must not live here: CRIU's options
(`checkpoint.options`), when it runs (`live.incoming`, `live.frozen_copy`). `live` only.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from migrate.checkpoint.facts import Facts
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.options import Request
from migrate.checkpoint.prepare import prepared
from migrate.checkpoint.restore import Restore
from migrate.live.arrival import Place
from migrate.live.network.build import Built
from migrate.live.terminal import Holder

if TYPE_CHECKING:
    from migrate.live.incoming import Announced

# CRIU's warnings and errors; its debug lines cost a tenth of the frozen time.
LOG_LEVEL = 2


def request_for(facts: Facts, *, has_links: bool) -> Request:
    """Return what both sides ask of CRIU.

    The network is made over there before, whoever made it here; and packets are kept
    away by the links, unless some never meet one. Only where the container has a user
    namespace CRIU makes it: that one must own it, and is made by CRIU, too.
    """
    is_host = facts.network.kind == "host"  # without connections, see `standing`
    has_loopback = any(each.is_loopback for each in facts.connections)
    return Request(
        network=None if is_host or facts.user_namespace else "external",
        network_lock="skip" if is_host or (has_links and not has_loopback) else None,
        log_level=LOG_LEVEL,
    )


def prepare(
    stack: contextlib.ExitStack,
    criu: str,
    incoming: Announced,
    place: Place,
    spec: Any,
    images: ImageDirectory,
    network: Built,
    *,
    is_lazy: bool,
) -> Restore:
    """Return a restore that is ready to start and waits for its images.

    The stack closes it.

    Args:
        is_lazy: memory that is left out is left to userfaultfd.
    """
    facts = incoming.facts
    request = replace(
        request_for(facts, has_links=bool(network.switches.links)), lazy_pages=is_lazy
    )
    where, target = stack.enter_context(
        prepared(
            spec,
            place.bundle,
            facts,
            request,
            cgroup=place.cgroup,
            work=place.work,
            network=network.descriptor,
            files=incoming.files,
        )
    )
    holder = None
    if facts.terminal:
        holder = stack.enter_context(Holder(f"{place.root}/{place.container_id}"))
    return stack.enter_context(
        Restore(
            criu,
            facts,
            request,
            place=where,
            target=target,
            images=images,
            gated=True,
            on_terminal=holder.take if holder is not None else None,
        )
    )
