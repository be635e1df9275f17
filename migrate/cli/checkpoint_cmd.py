"""`migrate checkpoint`: a running container saved as images."""

from __future__ import annotations

import os

from migrate.cli.imaging import image_path, refuse_unsupported, request, warn, work_path
from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call

# option -> what to do without it
UNSUPPORTED = {
    "lazy-pages": "Leave it out: memory is written to the images.",
    "page-server": "Leave it out, or move the container with `migrate live`.",
    "parent-path": "Leave it out: each checkpoint is whole.",
    "pre-dump": "Leave it out: each checkpoint is whole.",
    "status-fd": "Leave it out with --lazy-pages.",
}


def run(call: Call) -> int:
    """Save it, and end it unless told otherwise."""
    refuse_unsupported(call, UNSUPPORTED)
    folder = image_path(call)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"--image-path {folder} is no directory")
    from migrate.checkpoint.container import checkpoint
    from migrate.events import install

    install(warn)
    checkpoint(
        call.store,
        call.id,
        folder,
        request(call),
        criu=str(call.globals["criu"] or "") or None,
        work_path=work_path(call),
    )
    return 0
