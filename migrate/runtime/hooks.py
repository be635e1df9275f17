"""Hooks of the runtime's side: prestart, createRuntime, poststart, poststop.

Lives here: the state they are told, and the call. How one is run is shared with
the container's side, in `init.hooks`. May be imported by `launch` and `cli`.
"""

from __future__ import annotations

from migrate.runtime import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.spec.model import Spec
    from migrate.runtime.state import Record


def run(kind: str, spec: Spec, record: Record, status: str, pid: int) -> None:
    """Run the hooks of one kind, in order, until one fails.

    Args:
        kind: such as `createRuntime`.
        spec: decoded configuration.
        record: the container's.
        status: what the hooks are told: creating, created, running, stopped.
        pid: of the container's first process as seen here; 0 when it has ended.

    Raises:
        HookError: names the hook, how it ended, and the end of its output.
    """
    hooks: dict[str, list[dict[str, Any]]] = spec.get("hooks", {})  # type: ignore[assignment]
    if not hooks.get(kind):
        return
    from migrate.runtime.init.hooks import run_all

    run_all(kind, hooks[kind], state(record, status, pid).encode())


def state(record: Record, status: str, pid: int) -> str:
    """Return the state as JSON, as the runtime-spec (runtime.md, "State") has it."""
    value: dict[str, Any] = {
        "ociVersion": record["oci_version"],
        "id": record["id"],
        "status": status,
    }
    if pid:
        value["pid"] = pid
    value["bundle"] = record["bundle"]
    if record["annotations"]:
        value["annotations"] = record["annotations"]
    return jsontext.dumps(value)
