"""`migrate start`: the process of a created container begins."""

from __future__ import annotations

from migrate.errors import WrongStatus
from migrate.runtime.begin import start
from migrate.runtime.cgroup.freezer import frozen_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Start it, alone with the container: of several at once, one wins."""
    store = call.store
    with store.lock(call.id, command="start"):
        record = store.load(call.id)
        if frozen_state(record["cgroup"]) != "THAWED":
            # It would wait for a process that cannot answer.
            raise WrongStatus(
                "cannot start a paused container", f"Run `migrate resume {call.id}` first."
            )
        start(store, record)
    return 0
