"""`migrate state`: a container's state as JSON."""

from __future__ import annotations

import sys

from migrate.runtime import jsontext, listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Print the state, laid out as runc does."""
    record = call.store.load(call.id)
    sys.stdout.write(jsontext.dumps(listing.describe(record), indent="  ") + "\n")
    return 0
