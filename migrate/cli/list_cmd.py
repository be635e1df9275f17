"""`migrate list`: every container under the state root."""

from __future__ import annotations

import sys

from migrate.errors import UsageError
from migrate.runtime import jsontext, listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrate.cli.command import Call

# The layout of Go's tabwriter as runc sets it up.
LEAST_WIDTH = 12
PADDING = 3
HEADING = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def run(call: Call) -> int:
    """Print a table, JSON, or the ids alone."""
    layout = call.text("format")
    if layout not in ("table", "json"):
        raise UsageError("invalid format option", "Write table or json.")
    if call.has("quiet"):
        sys.stdout.write("".join(f"{name}\n" for name in call.store.ids()))
        return 0
    containers = listing.describe_all(call.store)
    if layout == "json":
        sys.stdout.write(jsontext.dumps(containers or None) + "\n")
        return 0
    rows = [
        tuple(str(each[field]) for field in ("id", "pid", "status", "bundle", "created", "owner"))
        for each in containers
    ]
    sys.stdout.write(table((HEADING, *rows)))
    return 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns, the last one without padding."""
    widths = [
        max(LEAST_WIDTH, max(len(row[at]) for row in rows) + PADDING)
        for at in range(len(rows[0]) - 1)
    ]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        lines.append("".join(cells) + row[-1] + "\n")
    return "".join(lines)
