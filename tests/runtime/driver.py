"""A command line of its own for `migrate.runtime`, so that tests do not need `cli`.

Run as `python -I -S driver.py REQUEST REPLY`: a JSON file in, a JSON file out. A
process of its own, since the runtime spawns, becomes a subreaper, and closes
descriptors; and with the interpreter's bare library, as the command has it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from migrate.errors import MigrateError
from migrate.runtime import cgroup, execute, launch
from migrate.runtime.spec import decode_process
from migrate.runtime.stage import Stage
from migrate.runtime.state import Store


def main(request_path: str, reply_path: str) -> None:
    """Do what the request says, and write what came of it."""
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    store = Store(request.pop("root"))
    verb = request.pop("verb")
    began = time.perf_counter()
    try:
        reply: dict[str, Any] = {"value": VERBS[verb](store, **request)}
    except MigrateError as error:
        reply = {"error": error.message, "hint": error.hint, "kind": type(error).__name__}
    reply["seconds"] = time.perf_counter() - began
    with open(f"{reply_path}.new", "w", encoding="utf-8") as file:
        json.dump(reply, file)
    os.rename(f"{reply_path}.new", reply_path)


def create(store: Store, name: str, bundle: str, **options: Any) -> Any:
    """As `migrate create`."""
    made = launch.CreateOptions(**options)
    return launch.create_from_bundle(store, name, bundle, made)


def create_killed(store: Store, name: str, bundle: str, *, at: str) -> None:
    """As `create`, killed just before, or just after, its stage is let go."""
    release = Stage.release

    def killed(stage: Stage) -> None:
        if at == "after release":
            release(stage)
        os.kill(os.getpid(), signal.SIGKILL)

    Stage.release = killed  # type: ignore[assignment,method-assign]
    create(store, name, bundle)


def start(store: Store, name: str) -> None:
    """As `migrate start`."""
    with store.lock(name, command="start"):
        launch.start(store, store.load(name))


def exec_(store: Store, name: str, process: Any, *, wait: bool = True, **options: Any) -> Any:
    """As `migrate exec --process`; the exit status where it is waited for."""
    decoded = decode_process(json.dumps(process).encode(), "request")
    record = store.load(name)
    pid = execute.exec_process(store, record, decoded, execute.ExecOptions(**options))
    if not wait:
        return pid
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def delete(store: Store, name: str) -> None:
    """As `migrate delete --force`."""
    record = store.load(name)
    cgroup.kill(record["cgroup"])
    cgroup.destroy(record["cgroup"])
    store.remove(name)


VERBS: dict[str, Callable[..., Any]] = {
    "create": create,
    "create_killed": create_killed,
    "start": start,
    "exec": exec_,
    "delete": delete,
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
