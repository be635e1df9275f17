"""`migrate kill`: a signal to a container."""

from __future__ import annotations

from migrate.runtime.kill import SIGKILL, kill, signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Send it; no lock is taken, so that a container can be killed while others wait."""
    number = signal_number(call.arguments[1] if len(call.arguments) > 1 else "TERM")
    store = call.store
    if call.has("all") or number == SIGKILL:
        store.refuse_moving(call.id)  # both would thaw it
    kill(store.load(call.id), number, everyone=call.has("all"))
    return 0
