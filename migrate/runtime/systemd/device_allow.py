"""Device rules as systemd has them: a list of what may be used, and nothing else.

Lives here: which of the runtime-spec's ordered rules come to such a list. Imported by
`properties`.

systemd knows no rule that closes. Where the rules do not come to a list, it is told the
widest thing that stays safe beside the rules this program sets itself:

    v2  systemd's filter and ours must both agree: it sets none
    v1  one controller, and systemd's next reload writes it again: it closes all
"""

from __future__ import annotations

from migrate.runtime.cgroup.devices import ANY, Rule, rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Property = tuple[str, tuple[str, Any]]

_DIRECTORIES = {"c": "char", "b": "block"}


def of(devices: Sequence[Mapping[str, Any]], *, unified: bool) -> list[Property]:
    """Return DevicePolicy and DeviceAllow for `linux.resources.devices`."""
    allowed = _list_of(rules(devices))
    if allowed is None:
        return _policy("auto" if unified else "strict", [])
    if any(rule.kind == "a" for rule in allowed):
        return _policy("auto", [])
    entries = [_entry(rule) for rule in allowed]
    if unified and None in entries:
        return _policy("auto", [])
    return _policy("strict", [entry for entry in entries if entry is not None])


def _policy(policy: str, entries: list[tuple[str, str]]) -> list[Property]:
    # The empty list first: what is then given is added to it.
    filled: list[Property] = [("DeviceAllow", ("a(ss)", entries))] if entries else []
    return [("DevicePolicy", ("s", policy)), ("DeviceAllow", ("a(ss)", [])), *filled]


def _list_of(ordered: Sequence[Rule]) -> list[Rule] | None:
    """Return the rules that open, where that is all there is to say; else None."""
    allowed: list[Rule] = []
    for rule in ordered:
        if rule.kind == "a":
            allowed = [rule] if rule.allow else []
        elif rule.allow:
            if not any(each.kind == "a" for each in allowed):
                allowed.append(rule)
        elif any(_overlaps(each, rule) for each in allowed):
            return None
    return allowed


def _overlaps(one: Rule, other: Rule) -> bool:
    """Tell whether two rules have a device and an access in common."""
    return (
        one.kind in ("a", other.kind)
        and (one.major == other.major or ANY in (one.major, other.major))
        and (one.minor == other.minor or ANY in (one.minor, other.minor))
        and bool(set(one.access) & set(other.access))
    )


def _entry(rule: Rule) -> tuple[str, str] | None:
    """Return a rule as (device, access), or None for one number of every driver."""
    kind = _DIRECTORIES[rule.kind]
    if rule.major == ANY:
        return (f"{kind}-*", rule.access) if rule.minor == ANY else None
    if rule.minor == ANY:
        return f"{kind}-{rule.major}", rule.access  # by number since systemd 240
    return f"/dev/{kind}/{rule.major}:{rule.minor}", rule.access
