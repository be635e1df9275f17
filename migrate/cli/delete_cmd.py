"""`migrate delete`: a container's end."""

from __future__ import annotations

import sys

from migrate.cli.reporting import readable
from migrate.runtime.delete import delete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Delete it; what its hooks did wrong is a warning."""
    for problem in delete(call.store, call.id, force=call.has("force")):
        sys.stderr.write(f"migrate: warning: {readable(problem)}\n")
    return 0
