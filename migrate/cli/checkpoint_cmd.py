"""`migrate checkpoint`: a running container becomes images, and ends."""

from __future__ import annotations

from migrate.checkpoint.container import checkpoint
from migrate.cli.criu_requests import image_path, request_of, work_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call


def run(call: Call) -> int:
    """Do it, alone with the container."""
    request = request_of(
        call,
        leave_running=call.has("leave-running"),
        tcp_skip_in_flight=call.has("tcp-skip-in-flight"),
    )
    criu = call.globals["criu"]
    checkpoint(
        call.store,
        call.id,
        image_path(call),
        request,
        criu=criu if isinstance(criu, str) else None,
        work_path=work_path(call),
    )
    return 0
