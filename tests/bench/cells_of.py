"""Measured cells for the tests of what is shown of them."""

from __future__ import annotations

from bench import cells, table


def run(**changed: float) -> dict[str, float]:
    return {**{field: 1.0 for _, field, _ in table.COLUMNS}, **changed}


def measured(
    plan: list[cells.Measured], downtime: dict[str, float], total: float = 1.0
) -> list[cells.Measured]:
    """Fill each cell in with one run; `downtime` is by method, in seconds."""
    for cell in plan:
        cell["runs"] = [run(downtime_seconds=downtime[cell["method"]], seconds=total)]
        cell["left_out"] = ""
    return plan
