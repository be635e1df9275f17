"""What config.json asks for that CRIU does not bring back.

Lives here: one pure function over the decoded configuration. Must not live here: what
the running container shows of itself (`inspect`). May be imported by `checkpoint` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from migrate.checkpoint.facts import Obstacle

_IDMAP_WORDS = {"idmap", "ridmap"}
# Namespaces that are joined by a path: CRIU brings back each as the container's own.
_SHARED: dict[str, tuple[Literal["refuse", "warn"], str, str]] = {
    "pid": (
        "refuse",
        "the container joins a process namespace, whose first process does not come along",
        "Give it a pid namespace of its own.",
    ),
    "ipc": (
        "warn",
        "the container shares System V and POSIX queues, and would come back with its own",
        "Move it alone only if nobody else uses them.",
    ),
    "uts": (
        "warn",
        "the container shares its host name, and would come back with its own",
        "Move it alone only if nobody else changes it.",
    ),
}


def obstacles(spec: Mapping[str, Any]) -> Iterator[Obstacle]:
    """Yield what cannot follow, or follows changed.

    Args:
        spec: decoded.
    """
    linux = spec.get("linux") or {}
    for mount in spec.get("mounts") or ():
        words = set(mount.get("options") or ())
        if words & _IDMAP_WORDS or mount.get("uidMappings") or mount.get("gidMappings"):
            yield Obstacle(
                verdict="refuse",
                what=f"mount {mount['destination']} maps ids, and would come back without that",
                hint="Unmount it first, or take the mapping out of config.json.",
            )
    for name in linux.get("netDevices") or ():
        yield Obstacle(
            verdict="refuse",
            what=f"network device {name} was moved into the container and cannot follow",
            hint="Take it out of $.linux.netDevices and make the container anew.",
        )
    for space in linux.get("namespaces") or ():
        if space.get("path") and space["type"] in _SHARED:
            verdict, what, hint = _SHARED[space["type"]]
            yield Obstacle(verdict=verdict, what=f"{what} ({space['path']})", hint=hint)
    if asked := _asked_outside(linux.get("seccomp") or {}):
        yield Obstacle(
            verdict="refuse",
            what=f"an agent outside answers for system calls of the container ({asked}), and its "
            "listener cannot follow",
            hint="Take SCMP_ACT_NOTIFY out of $.linux.seccomp and make the container anew.",
        )
    forgotten = (
        ("$.linux.memoryPolicy", linux.get("memoryPolicy")),
        ("$.linux.intelRdt", linux.get("intelRdt")),
    )
    for path, value in forgotten:
        if value:
            yield Obstacle(
                verdict="warn",
                what=f"{path} holds until the container moves or is restored, not beyond",
                hint="Set it again from outside, as ionice(1) and the like do.",
            )


def _asked_outside(seccomp: Mapping[str, Any]) -> str:
    """Return the names of the calls that are asked about, see seccomp_unotify(2).

    CRIU brings the filter back without its listener; each such call then fails by ENOSYS.
    """
    rules = seccomp.get("syscalls") or ()
    asking = (rule["names"] for rule in rules if rule["action"] == "SCMP_ACT_NOTIFY")
    return ", ".join(dict.fromkeys(name for names in asking for name in names))
