"""`migrate restore`: images become a running container again."""

from __future__ import annotations

from migrate.checkpoint.container import RestoreOptions, restore
from migrate.cli.bundles import bundle_of, refuse_systemd
from migrate.cli.criu_requests import image_path, request_of, work_path
from migrate.errors import UsageError
from migrate.runtime.delete import delete
from migrate.runtime.spec import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call
    from migrate.runtime.state import Record


def run(call: Call) -> int:
    """Restore it; wait for its end and delete it, unless detached."""
    refuse_systemd(call)
    if call.has("no-pivot"):
        raise UsageError("CRIU knows no other way than pivot_root", "Leave --no-pivot out.")
    if call.has("detach"):
        _begin(call, RestoreOptions(console_socket=call.text("console-socket")))
        return 0
    return _foreground(call)


def _foreground(call: Call) -> int:
    """Stand between it and our terminal, or our descriptors."""
    from migrate.runtime.launch import read_config
    from migrate.runtime.relay import Relay

    bundle = bundle_of(call)
    process = decode(read_config(bundle), f"{bundle}/config.json")["process"]
    socket = call.text("console-socket")
    has_terminal = bool(process.get("terminal")) and not socket
    with Relay(terminal=has_terminal) as relay:
        taken = RestoreOptions(
            console_socket=socket, take_console=relay.take_console if has_terminal else None
        )
        status = relay.wait(_begin(call, taken)["pid"])
    delete(call.store, call.id, force=True)
    return status


def _begin(call: Call, taken: RestoreOptions) -> Record:
    """Restore it."""
    taken.pid_file = call.text("pid-file")
    criu = call.globals["criu"]
    return restore(
        call.store,
        call.id,
        bundle_of(call),
        image_path(call),
        request_of(
            call,
            tcp_close=call.has("tcp-close"),
            lsm_profile=call.text("lsm-profile"),
            lsm_mount_context=call.text("lsm-mount-context"),
        ),
        taken,
        criu=criu if isinstance(criu, str) else None,
        work_path=work_path(call),
    )
