"""The destination as it is seen, on its way to the source.

Lives here: a `decision.DestinationView` as JSON, both directions. Must not live here: how
it is found out (`live.destination`), what follows from it (`live.decision`). `live` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.errors import ProtocolError
from migrate.live.decision import DestinationView, Tasks
from migrate.live.phases import Landing


def view_to_json(view: DestinationView) -> dict[str, Any]:
    """Return a view as it travels."""
    return {
        "reached": view.reached.value if view.reached else None,
        "pending": view.pending.value if view.pending else None,
        "tasks": view.tasks.value,
        "same_boot": view.same_boot,
        "was_refused": view.was_refused,
    }


def view_from_json(data: Mapping[str, Any] | None) -> DestinationView:
    """Return what `view_to_json` made; None is a host that knows of no migration.

    Raises:
        ProtocolError: it is not that.
    """
    if data is None:
        return DestinationView(None, None, Tasks.GONE)
    try:
        return DestinationView(
            reached=Landing(data["reached"]) if data["reached"] else None,
            pending=Landing(data["pending"]) if data["pending"] else None,
            tasks=Tasks(data["tasks"]),
            same_boot=data["same_boot"] is True,
            was_refused=data["was_refused"] is True,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ProtocolError(f"status is not understood: {error}") from None
