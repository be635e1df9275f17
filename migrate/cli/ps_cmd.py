"""`migrate ps`: the processes of a container."""

from __future__ import annotations

import sys

from migrate.errors import UsageError
from migrate.runtime import cgroup, jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Print ps's lines about them, or their pids as JSON."""
    layout = call.text("format")
    if layout not in ("table", "json"):
        raise UsageError("invalid format option", "Write table or json.")
    record = call.store.load(call.id)
    if layout == "json":
        sys.stdout.write(jsontext.dumps(cgroup.procs(record["cgroup"]) or None) + "\n")
        return 0
    from migrate.runtime import ps

    sys.stdout.write(ps.table(record, call.arguments[1:]) + "\n")
    return 0
