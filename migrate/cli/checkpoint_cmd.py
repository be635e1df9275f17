"""`migrate checkpoint`: a running container saved as images."""

from __future__ import annotations

import os

from migrate.cli.imaging import image_path, refuse_unsupported, request, warn, work_path
from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.checkpoint.container import Serving
    from migrate.cli.command import Call

# option -> what to do without it
UNSUPPORTED = {
    "parent-path": "Leave it out: each checkpoint is whole.",
    "pre-dump": "Leave it out: each checkpoint is whole.",
}


def run(call: Call) -> int:
    """Save it, and end it unless told otherwise."""
    refuse_unsupported(call, UNSUPPORTED)
    folder = image_path(call)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"--image-path {folder} is no directory")
    serving = _serving(call)
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
        serving=serving,
    )
    return 0


def _serving(call: Call) -> Serving | None:
    """Return where memory shall be fetched, None to have it in the images.

    Raises:
        UsageError: the options do not fit each other.
    """
    status = call.number("status-fd")
    if not call.has("lazy-pages"):
        if call.text("page-server"):
            raise UsageError(
                "--page-server is only supported with --lazy-pages: images that are written "
                "elsewhere cannot be vouched for",
                "Add --lazy-pages, or move the container with `migrate live`.",
            )
        if status >= 0:
            raise UsageError("--status-fd tells of lazy pages only", "Add --lazy-pages.")
        return None
    if call.has("leave-running"):
        raise UsageError(
            "--lazy-pages takes a container's memory away, and --leave-running needs it",
            "Leave one of them out.",
        )
    from migrate.checkpoint.container import Serving
    from migrate.checkpoint.lazy import parse_address

    address = parse_address(call.text("page-server"))
    if status >= 0:
        try:
            os.set_inheritable(status, False)
        except OSError:
            raise UsageError(f"--status-fd {status} is not open") from None
    return Serving(address=address, status_descriptor=status)
