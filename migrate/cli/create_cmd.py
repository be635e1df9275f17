"""`migrate create`: a container whose process waits for `start`."""

from __future__ import annotations

from migrate.cli.bundles import bundle_of, create_options
from migrate.runtime.launch import create_from_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Create it."""
    create_from_bundle(call.store, call.id, bundle_of(call), create_options(call))
    return 0
