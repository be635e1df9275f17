"""Which devices a container may use, as rules of the v1 devices controller.

Lives here: the order and the text of the rules. Must not live here: the device nodes
(they are made by the container's first process). Imported by `limits`.

The runtime-spec's rules are applied in order on a cgroup that is closed first, and the
devices every container needs are opened last, as runc does. On v2 the same rules
become a program, see `device_program`.
"""

from __future__ import annotations

from migrate.runtime.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

ANY = -1


class Rule:
    """One rule: which devices, which access, and whether it opens or closes.

    Attributes:
        kind: `a` for all, `c` or `b`.
        major: number, or ANY.
        minor: number, or ANY.
        access: letters of `rwm`.
        allow: opens what it names if true.
    """

    __slots__ = ("access", "allow", "kind", "major", "minor")

    def __init__(self, kind: str, major: int, minor: int, access: str, *, allow: bool) -> None:
        self.kind = kind
        self.major = major
        self.minor = minor
        self.access = access
        self.allow = allow

    @property
    def text(self) -> str:
        """The rule as devices.allow and devices.deny read it."""
        major, minor = ("*" if n == ANY else str(n) for n in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {self.access}"


# What opens for every container, as in runc: nodes may be made of any number (they
# cannot be opened), and these may be used.
ALWAYS = (
    Rule("c", ANY, ANY, "m", allow=True),
    Rule("b", ANY, ANY, "m", allow=True),
    Rule("c", 1, 3, "rwm", allow=True),  # /dev/null
    Rule("c", 1, 8, "rwm", allow=True),  # /dev/random
    Rule("c", 1, 7, "rwm", allow=True),  # /dev/full
    Rule("c", 5, 0, "rwm", allow=True),  # /dev/tty
    Rule("c", 1, 5, "rwm", allow=True),  # /dev/zero
    Rule("c", 1, 9, "rwm", allow=True),  # /dev/urandom
    Rule("c", 136, ANY, "rwm", allow=True),  # /dev/pts/*
    Rule("c", 5, 2, "rwm", allow=True),  # /dev/ptmx
)


def rules(devices: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Return `linux.resources.devices` as rules, the ones of every container last."""
    asked = [
        Rule(
            device.get("type") or "a",
            ANY if device.get("major") is None else device["major"],
            ANY if device.get("minor") is None else device["minor"],
            device.get("access") or "rwm",
            allow=device["allow"],
        )
        for device in devices
    ]
    return [*asked, *ALWAYS]


def apply_v1(directory: str, devices: Sequence[Mapping[str, Any]]) -> None:
    """Set the rules of a cgroup that nobody is in yet.

    Raises:
        CgroupError: a rule opens what the parent cgroup closes (EPERM).
    """
    files.write(f"{directory}/devices.deny", "a")
    for rule in rules(devices):
        files.write(f"{directory}/devices.{'allow' if rule.allow else 'deny'}", rule.text)
