"""`migrate features`: what this runtime can do, as JSON."""

from __future__ import annotations

import sys

from migrate.runtime import jsontext
from migrate.runtime.features import features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:  # noqa: ARG001 - every command is called alike
    """Print it, laid out as runc does."""
    sys.stdout.write(jsontext.dumps(features(), indent="    ") + "\n")
    return 0
