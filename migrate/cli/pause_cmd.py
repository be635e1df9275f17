"""`migrate pause`: every process of a container stops where it is."""

from __future__ import annotations

from migrate.runtime.pause import pause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Do it, alone with the container."""
    store = call.store
    with store.lock(call.id, command="pause"):
        pause(store.load(call.id))
    return 0
