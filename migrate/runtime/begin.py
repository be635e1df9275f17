"""Letting a created container start.

Lives here: what `start` does on the host's side. Must not live here: making
containers. May be imported by every room above `runtime`. A module of its own,
with its imports where they are needed: `start` takes little longer than Python.
"""

from __future__ import annotations

import os

from migrate.errors import StageError, WrongStatus
from migrate.runtime import door, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.state import Record, Store


def start(store: Store, record: Record) -> None:
    """Let a created container's first process become its payload.

    Called with the container's lock held.

    Raises:
        WrongStatus: it is not in the state to be started.
        StageError: the payload could not be executed; the container has stopped.
        HookError: a poststart hook failed; the container was killed.
    """
    container_id = record["id"]
    status = state.status(record)
    if status == "paused":
        # A frozen process would never answer, nor let go of the lock held here.
        raise WrongStatus(
            "cannot start a container in the paused state",
            f"Run `migrate resume {container_id}` first.",
        )
    if status == "stopped":
        raise WrongStatus("cannot start a container that has stopped")
    if status == "creating":
        # Its maker would hold the lock: it was killed, and the next `create` clears it away.
        raise WrongStatus(
            "cannot start a container in the creating state",
            f"Its `create` was cut off: run that again, or `migrate delete {container_id}`.",
        )
    if record["phase"] == "started":
        raise WrongStatus("cannot start an already running container")
    directory = store.path(container_id)
    path = f"{directory}/{door.SOCKET}"
    problem = door.knock(path, lambda fd: _hand_over(fd, f"{directory}/config.json", record))
    if problem is None and state.status(record) == "stopped":
        raise WrongStatus("cannot start a container that has stopped")
    record["phase"] = "started"
    store.save(record)
    os.unlink(path)
    if problem is None:
        # A `start` that was killed had said the word, and not yet written that down.
        raise WrongStatus("cannot start an already running container")
    if problem:
        raise StageError(f"unable to start container process: {problem}")
    _run_hooks(f"{directory}/config.json", record)


def _hand_over(fd: int, path: str, record: Record) -> None:
    """Send the listener of the container's filter on; without it, nothing may run."""
    from migrate.runtime import cgroup
    from migrate.runtime.filters import hand_over
    from migrate.runtime.spec import decode

    try:
        with open(path, "rb") as file:
            seccomp = decode(file.read(), path)["linux"]["seccomp"]
        hand_over(fd, seccomp, record, "created", record["pid"])
    except BaseException:
        cgroup.kill(record["cgroup"])
        raise
    finally:
        os.close(fd)


def _run_hooks(path: str, record: Record) -> None:
    """Run the poststart hooks; one that fails ends the container (runtime.md)."""
    with open(path, "rb") as file:
        config = file.read()
    if b'"poststart"' not in config:
        return
    from migrate.runtime import cgroup, hooks
    from migrate.runtime.spec import decode

    try:
        hooks.run("poststart", decode(config, path), record, "running", record["pid"])
    except BaseException:
        cgroup.kill(record["cgroup"])
        raise
