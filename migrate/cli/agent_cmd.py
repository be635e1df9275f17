"""`migrate agent`: the other end of `live`, on standard input and output.

Started by the source over SSH; people do not call it. Imported by `program` only.
"""

from __future__ import annotations

from migrate.cli.command import Call


def run(call: Call) -> int:
    """Serve one migration, or its recovery; return the exit status."""
    from migrate.live import agent
    from migrate.live.destination import Settings
    from migrate.live.journal import default_folder
    from migrate.transport.channel import stdio_channel

    settings = Settings(
        store=call.store,
        journals=default_folder(call.text("journal-dir") or None),
        criu=str(call.globals["criu"] or "") or None,
    )
    agent.serve(stdio_channel(), settings)
    return 0
