"""`migrate start`: the process of a created container begins."""

from __future__ import annotations

from migrate.runtime.begin import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Start it, alone with the container: of several at once, one wins."""
    store = call.store
    with store.lock(call.id, command="start"):
        start(store, store.load(call.id))
    return 0
