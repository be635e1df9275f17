"""Control groups: where a container's limits, counters and freezer are.

Lives here: cgroup v1, v2 and the mix of both ("hybrid"), by the file system alone.
Must not live here: which process belongs to which container, and systemd's driver.
May be imported by every room above `runtime`.

A container's cgroup is a mapping `paths` of hierarchy key to absolute directory, as
`resolve` returns it and `state.json` keeps it. Keys are v1 controllers as the kernel
lists them (`memory`, `cpu,cpuacct`), `name=systemd`, and "" for the cgroup2 tree; where
"" is the only key, the host is a v2 one.

| module | what |
|---|---|
| hierarchy | which trees there are, and where a container's directory is in each |
| tree | make, join, list, kill, remove |
| claim | keeping two containers out of one cgroup |
| freezer | freeze and thaw |
| limits, limits_v1, limits_v2, devices, device_program | what `linux.resources` asks |
| counters, counters_v1, counters_v2 | runc's numbers |

Each function below is loaded with its module when it is first used: `state` and
`kill` run in milliseconds and need one of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.cgroup.claim import claim
    from migrate.runtime.cgroup.counters import stats
    from migrate.runtime.cgroup.freezer import freeze, frozen_state, thaw
    from migrate.runtime.cgroup.hierarchy import Hierarchy, directory_of, hierarchies, resolve
    from migrate.runtime.cgroup.limits import create, limit_new, update
    from migrate.runtime.cgroup.tree import (
        add,
        destroy,
        exists,
        kill,
        make,
        procs,
        refuse_occupied,
    )

__all__ = [
    "Hierarchy",
    "add",
    "claim",
    "create",
    "destroy",
    "directory_of",
    "exists",
    "freeze",
    "frozen_state",
    "hierarchies",
    "kill",
    "limit_new",
    "make",
    "procs",
    "refuse_occupied",
    "resolve",
    "stats",
    "thaw",
    "update",
]

_MODULES = {
    "Hierarchy": "hierarchy",
    "add": "tree",
    "claim": "claim",
    "create": "limits",
    "destroy": "tree",
    "directory_of": "hierarchy",
    "exists": "tree",
    "freeze": "freezer",
    "frozen_state": "freezer",
    "hierarchies": "hierarchy",
    "kill": "tree",
    "limit_new": "limits",
    "make": "tree",
    "procs": "tree",
    "refuse_occupied": "tree",
    "resolve": "hierarchy",
    "stats": "counters",
    "thaw": "freezer",
    "update": "limits",
}


def __getattr__(name: str) -> object:
    """Load the module a name lives in, see PEP 562."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(name)
    value: object = getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
    globals()[name] = value
    return value
