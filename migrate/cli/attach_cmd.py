"""`migrate attach`: one's own terminal in place of a moved container's."""

from __future__ import annotations

import os
import sys

from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call

DETACH = b"\x10\x11"  # Ctrl-P Ctrl-Q, as with docker and podman


def run(call: Call) -> int:
    """Carry it over until one detaches, or it is gone; return the exit status."""
    from migrate.live.terminal import attach
    from migrate.runtime.relay import Relay

    if not os.isatty(0):
        raise UsageError(
            "attach needs a terminal, and standard input is none", "Run it on a terminal."
        )
    call.store.load(call.id)
    with Relay(terminal=True) as relay:
        attached = attach(call.store.path(call.id), call.id)
        with attached.connection:
            relay.take_console(attached.master)
            relay.show(attached.shown)
            is_detached = relay.carry(DETACH)
    said = "detached" if is_detached else "the terminal is closed"
    sys.stderr.write(f"\n{said}\n")
    return 0
