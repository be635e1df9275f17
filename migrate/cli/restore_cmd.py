"""`migrate restore`: a container brought back from images."""

from __future__ import annotations

from migrate.cli.bundles import bundle_of, wants_systemd
from migrate.cli.imaging import image_path, request, work_path
from migrate.runtime.delete import delete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.checkpoint.container import RestoreOptions
    from migrate.cli.command import Call
    from migrate.runtime.state import Record


def run(call: Call) -> int:
    """Restore it; wait for its end and delete it, unless told otherwise."""
    from migrate.checkpoint.container import RestoreOptions

    options = RestoreOptions(
        console_socket=call.text("console-socket"),
        pid_file=call.text("pid-file"),
        systemd=wants_systemd(call),
    )
    if call.has("detach"):
        _restore(call, options)
        return 0
    from migrate.runtime.relay import Relay

    terminal = _has_terminal(call) and not options.console_socket
    with Relay(terminal=terminal) as relay:
        if terminal:
            options.take_console = relay.take_console
        record = _restore(call, options)
        status = relay.wait(record["pid"])
    delete(call.store, call.id, force=True)
    return status


def _has_terminal(call: Call) -> bool:
    """Tell whether the container in the images has a terminal."""
    from migrate.checkpoint.images import ImageDirectory

    with ImageDirectory(image_path(call)) as images:
        return images.manifest().facts.terminal


def _restore(call: Call, options: RestoreOptions) -> Record:
    """Restore it as the options say."""
    from migrate.checkpoint.container import restore

    record = restore(
        call.store,
        call.id,
        bundle_of(call),
        image_path(call),
        request(call),
        options,
        criu=str(call.globals["criu"] or "") or None,
        work_path=work_path(call),
    )
    if call.has("no-subreaper"):
        from migrate import syscalls

        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
    return record
