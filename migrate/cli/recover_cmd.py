"""`migrate recover`: settle a migration that was cut off.

Lives here: from options to an order. Imported by `program` only.
"""

from __future__ import annotations

from migrate.cli.command import Call


def run(call: Call) -> int:
    """Settle it; return the exit status."""
    from migrate.cli.live_cmd import way
    from migrate.cli.showing import showing
    from migrate.live.journal import default_folder
    from migrate.live.recover import recover

    with showing(json=call.has("json")):
        recover(
            call.store,
            call.id,
            journals=default_folder(call.text("journal-dir") or None),
            way=way(call, call.text("to")) if call.text("to") else None,
            criu=str(call.globals["criu"] or "") or None,
        )
    return 0
