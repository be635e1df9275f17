"""`migrate run`: a container from its beginning to its end."""

from __future__ import annotations

import os
import sys
import time

from migrate.cli.bundles import bundle_of, create_options
from migrate.runtime.configfile import read_config
from migrate.runtime.delete import delete
from migrate.runtime.launch import create, start
from migrate.runtime.spec import decode
from migrate.runtime.statedir import MIGRATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call
    from migrate.runtime.launch import CreateOptions
    from migrate.runtime.spec.model import Spec
    from migrate.runtime.state import Record

# How long a migration may take from the end of the processes here to its own.
MOVE_SECONDS = 60.0


def run(call: Call) -> int:
    """Create and start it; wait for its end and delete it, unless told otherwise."""
    bundle = bundle_of(call)
    config = read_config(bundle)
    spec = decode(config, f"{bundle}/config.json")
    if call.has("detach") or call.text("console-socket"):
        options = create_options(call)
        options.config = config
        record = _begin(call, spec, bundle, options)
        return 0 if call.has("detach") else _wait_only(call, record)
    return _foreground(call, spec, bundle, config)


def _foreground(call: Call, spec: Spec, bundle: str, config: bytes) -> int:
    """Run it on our terminal, or on our descriptors."""
    from migrate.runtime.relay import Relay

    terminal = bool(spec["process"].get("terminal"))
    with Relay(terminal=terminal) as relay:
        options = create_options(call, relay.take_console if terminal else None)
        options.config = config
        record = _begin(call, spec, bundle, options)
        status = relay.wait(record["pid"])
    _end(call)
    return status


def _wait_only(call: Call, record: Record) -> int:
    """Wait for it where another process has its terminal."""
    from migrate.runtime.relay import Relay

    with Relay(terminal=False) as relay:
        status = relay.wait(record["pid"])
    _end(call)
    return status


def _begin(call: Call, spec: Spec, bundle: str, options: CreateOptions) -> Record:
    """Create and start it; nothing of it stays where the start fails."""
    store = call.store
    record = create(store, call.id, spec, bundle, options)
    if call.has("no-subreaper"):
        from migrate import syscalls

        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
    try:
        with store.lock(call.id, command="run"):
            start(store, record)
    except BaseException:
        delete(store, call.id, force=True)
        raise
    return record


def _end(call: Call) -> None:
    """Delete what has ended, unless --keep."""
    if _has_left(call):
        sys.stderr.write(
            f'migrate: container "{call.id}" is not here any more: it was moved, or deleted by '
            "another command\n"
        )
    elif not call.has("keep"):
        delete(call.store, call.id, force=True)


def _has_left(call: Call) -> bool:
    """Tell whether another command took it; one that is moving it is waited for."""
    guard = f"{call.store.path(call.id)}/{MIGRATION}"
    deadline = time.monotonic() + MOVE_SECONDS
    while os.path.exists(guard) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not call.store.exists(call.id)
