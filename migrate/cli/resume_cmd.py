"""`migrate resume`: a paused container goes on."""

from __future__ import annotations

from migrate.runtime.pause import resume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Do it, alone with the container."""
    store = call.store
    with store.lock(call.id, command="resume"):
        resume(store.load(call.id))
    return 0
