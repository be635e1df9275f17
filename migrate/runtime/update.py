"""Other limits for a container that is there.

Lives here: setting them, and remembering them with the container, so that they go along
when it moves. Must not live here: where a limit is written (`group`). May be imported by
every room above `runtime`.
"""

from __future__ import annotations

from migrate.errors import BrokenState, WrongStatus
from migrate.runtime import group, jsontext, state, statedir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from migrate.runtime.state import Record, Store


def update(store: Store, record: Record, resources: Mapping[str, Any]) -> None:
    """Set limits of a container; its lock is held.

    Args:
        resources: sections of `linux.resources`; what is absent stays as it is.

    Raises:
        WrongStatus: it has stopped.
        CgroupError: the kernel refuses one; those before it are set.
    """
    if state.status(record) == "stopped":
        raise WrongStatus("container not running")
    group.update(record, _with_other_half(store, record["id"], resources))
    _remember(store, record["id"], resources)


def _with_other_half(
    store: Store, container_id: str, resources: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Add to a CPU quota the container's period, or the other way round.

    On cgroup v2 they are one file, and systemd has one property for both: given alone,
    one of them would put the other back to its default.
    """
    cpu = resources.get("cpu") or {}
    if bool(cpu.get("quota")) == bool(cpu.get("period")):
        return resources
    other = "period" if cpu.get("quota") else "quota"
    try:
        config = jsontext.loads(store.read(container_id, statedir.CONFIG))
        value = config["linux"]["resources"]["cpu"][other]
    except (OSError, ValueError, KeyError, TypeError):
        return resources  # it has none; of a broken record `_remember` speaks
    return {**resources, "cpu": {**cpu, other: value}}


def _remember(store: Store, container_id: str, resources: Mapping[str, Any]) -> None:
    """Merge limits into the container's own copy of config.json."""
    try:
        config = jsontext.loads(store.read(container_id, statedir.CONFIG))
        linux = config["linux"] = config.get("linux") or {}
        kept = linux["resources"] = linux.get("resources") or {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BrokenState(
            f'config.json of container "{container_id}" is broken: {error}',
            "The limits are set, and are forgotten when the container moves.",
        ) from None
    for section, values in resources.items():
        if isinstance(values, dict):
            kept[section] = (kept.get(section) or {}) | values
        else:
            kept[section] = values
    store.replace(container_id, statedir.CONFIG, jsontext.dumps(config).encode())
