"""The policy of each volume, and what stands in its way.

Lives here: the rules, as pure functions of what both hosts have. Must not live here:
looking (`find`, `look`). `live.volumes` only.

    sync     copied, in passes while the container runs and once more while it stands still
    shared   both hosts have the same storage, which a marker has shown
    exists   it must be there, and is left alone
    skip     an empty folder, or an empty file, in the destination's bundle stands for it

Where the user names none, one is taken only where nothing can be lost by it: what lies
in the bundle goes with the bundle; what the kernel makes up, and what is read-only and
the same on both hosts, exists; what is shown to be shared is. The rest is refused, and
the user asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from migrate.events import Finding
from migrate.live.comparison import finding
from migrate.live.volumes.find import is_within
from migrate.live.volumes.volume import ABSENT, FILE, FOLDER, OTHER, Policy, Seen, Volume

TOPIC = "volumes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known of one volume on both hosts.

    Attributes:
        is_alike: the destination has the same content; None where nobody compared.
        is_shared: a marker was seen there.
    """

    volume: Volume
    seen: Seen
    is_alike: bool | None = None
    is_shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of one volume.

    Attributes:
        policy: None where it is refused.
        within: the source of the volume that brings it along, or "".
    """

    volume: Volume
    policy: Policy | None
    findings: tuple[Finding, ...]
    within: str = ""


def decide(sights: list[Sight], *, here: str, there: str) -> list[Decision]:
    """Return a decision for each volume.

    Args:
        sights: in the order of their paths.
        here: the source's name.
        there: the destination's.
    """
    names = _Names(here, there)
    decided: list[Decision] = []
    needed: dict[str, int] = {}
    for sight in sights:
        volume = sight.volume
        around = _around(volume, decided)
        if around is not None:
            decided.append(_within(sight, around, names))
            continue
        if _is_left_out(volume, decided):
            decided.append(names.left_out(volume))
            continue
        policy = volume.asked or _choose(sight)
        found = list(names.unchosen(sight)) if policy is None else list(names.judge(sight, policy))
        if policy == "sync":
            taken = needed.get(sight.seen.disk, 0)
            needed[sight.seen.disk] = taken + volume.size_bytes
            found += names.room(sight, needed[sight.seen.disk])
        refused = any(each.verdict == "refuse" for each in found)
        if not found and policy is not None:
            found = [finding(TOPIC, "ok", names.well(volume, policy))]
        decided.append(
            Decision(volume=volume, policy=None if refused else policy, findings=tuple(found))
        )
    return decided


def _around(volume: Volume, decided: list[Decision]) -> Decision | None:
    """Return the volume that is copied and has this one in it."""
    for each in decided:
        if (
            each.policy == "sync"
            and not each.within
            and each.volume.kind == FOLDER
            and is_within(volume.source, each.volume.source)
            and volume.asked != "skip"
        ):
            return each
    return None


def _is_left_out(volume: Volume, decided: list[Decision]) -> bool:
    """Tell whether a mount that came along with another one has no place over there."""
    return bool(volume.around) and (
        volume.asked == "skip"
        or any(each.policy == "skip" and each.volume.source == volume.around for each in decided)
    )


def _within(sight: Sight, around: Decision, names: _Names) -> Decision:
    """Return the decision for a volume that lies in one that is copied."""
    volume, outer = sight.volume, around.volume
    expected = outer.there + volume.source[len(outer.source) :]
    problem = ""
    if volume.is_mount:
        problem = "is a mount of its own, which a copy leaves out"
    elif volume.asked not in ("", "sync"):
        problem = f"cannot be {volume.asked}"
    elif volume.there != expected:
        problem = f"cannot be {volume.there} on {names.there}, which would be {expected}"
    elif volume.kind == OTHER:
        problem = "is no file with content"
    if problem:
        found = finding(
            TOPIC,
            "refuse",
            f"{volume.source} lies in {outer.source}, which is copied, and {problem}",
            f"Choose another policy for {outer.source}.",
        )
        return Decision(volume=volume, policy=None, findings=(found,))
    found = finding(TOPIC, "ok", f"{volume.source} comes along in {outer.source}")
    return Decision(volume=volume, policy="sync", findings=(found,), within=outer.source)


def _choose(sight: Sight) -> Policy | None:
    """Return the policy of a volume for which the user names none, if one is safe."""
    volume, seen = sight.volume, sight.seen
    if volume.kind == OTHER or volume.is_of_kernel:
        return "exists"
    if volume.is_in_bundle:
        return "sync"
    if sight.is_shared:
        return "shared"
    if not volume.is_writable and (sight.is_alike or seen.kind not in (ABSENT, volume.kind)):
        return "exists"
    return None


class _Names:
    """The rules in words.

    Args:
        here: the source's name.
        there: the destination's.
    """

    def __init__(self, here: str, there: str) -> None:
        self.here = here
        self.there = there

    def well(self, volume: Volume, policy: Policy) -> str:
        """Return what is said where nothing is wrong."""
        path, there = volume.source, self.there
        return {
            "sync": f"{path} is copied to {volume.there} of {there}",
            "shared": f"{path} is the same storage on both hosts",
            "exists": f"{volume.there} is on {there}",
            "skip": f"{path} stays here",
        }[policy]

    def left_out(self, volume: Volume) -> Decision:
        """Return the decision for a mount whose place would be in an empty folder."""
        found = finding(
            TOPIC,
            "refuse",
            f"{_name(volume)}: came along with {volume.around}, and one of the two cannot be "
            "skipped alone",
            f"Choose another policy for {volume.around} or for {volume.source}.",
        )
        return Decision(volume=volume, policy=None, findings=(found,))

    def unchosen(self, sight: Sight) -> Iterator[Finding]:
        """Say why no policy is taken without being asked for."""
        volume, seen = sight.volume, sight.seen
        name = _name(volume)
        options = "sync, shared, exists or skip"
        if volume.is_writable:
            message = f"{name}: it is not known what shall become of its content"
        elif seen.kind == ABSENT:
            message = f"{name}: is not on {self.there}"
            options = "sync or skip"
        elif sight.is_alike is None:
            message = f"{name}: is too large to be compared with {self.there}'s"
        else:
            message = f"{name}: {self.there} has another content, owner or mode at {volume.there}"
        yield finding(
            TOPIC,
            "refuse",
            message,
            f"Say it by --volume {volume.source}=POLICY, POLICY one of {options}.",
        )

    def judge(self, sight: Sight, policy: Policy) -> Iterator[Finding]:
        """Return what is wrong with a policy."""
        if sight.volume.is_replaced and policy in ("sync", "shared"):
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(sight.volume)}: was replaced on {self.here}, the container has the old "
                "one",
                "Restart the container first, or choose another policy.",
            )
            return
        yield from {
            "sync": self._sync,
            "shared": self._shared,
            "exists": self._exists,
            "skip": self._skip,
        }[policy](sight)

    def _sync(self, sight: Sight) -> Iterator[Finding]:
        volume, seen = sight.volume, sight.seen
        where = f"{volume.there} of {self.there}"
        if volume.kind == OTHER or volume.is_of_kernel:
            yield _refusal(volume, "has no content that can be copied", "exists")
        elif seen.kind not in (ABSENT, volume.kind):
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(volume)}: is a {volume.kind}, and {where} is none",
                "Move that one away, or give another path by --map.",
            )
        elif seen.kind != ABSENT and not (seen.is_empty or seen.is_left):
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(volume)}: {where} is not empty, nor left by a migration of this container",
                "Move it away, give another path by --map, or choose exists.",
            )
        elif seen.user:
            yield finding(
                TOPIC,
                "refuse",
                f'{_name(volume)}: container "{seen.user}" on {self.there} uses {volume.there}',
                "Give another path by --map.",
            )

    def room(self, sight: Sight, needed_bytes: int) -> Iterator[Finding]:
        """Say where a volume does not fit any more."""
        seen = sight.seen
        if needed_bytes > seen.free_bytes and not seen.is_left:
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(sight.volume)}: takes {needed_bytes >> 20} MiB with what is copied "
                f"beside it, {self.there} has {seen.free_bytes >> 20} MiB there",
                "Free space there, or give another path by --map.",
            )

    def _shared(self, sight: Sight) -> Iterator[Finding]:
        volume = sight.volume
        if volume.kind == OTHER:
            yield _refusal(volume, "cannot be shown to be shared", "exists")
        elif not sight.is_shared:
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(volume)}: what is written to it on {self.here} is not seen at "
                f"{volume.there} of {self.there}",
                "Mount the same storage on both hosts, writable for root, or choose exists.",
            )

    def _exists(self, sight: Sight) -> Iterator[Finding]:
        volume, seen = sight.volume, sight.seen
        if seen.kind == ABSENT:
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(volume)}: {volume.there} is not on {self.there}",
                f"Make it there: {volume.there}.",
            )
        elif seen.kind != volume.kind or seen.device != volume.device:
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(volume)}: {volume.there} of {self.there} is not what it is here, a "
                f"{volume.device or volume.kind}",
                "Make it there what it is here.",
            )
        elif volume.is_writable and volume.kind in (FOLDER, FILE) and not volume.is_of_kernel:
            yield finding(
                TOPIC,
                "warn",
                f"{_name(volume)}: {volume.there} is {self.there}'s own: the content here does "
                "not come along",
                f"Choose --volume {volume.source}=sync to take it along.",
            )

    def _skip(self, sight: Sight) -> Iterator[Finding]:
        volume = sight.volume
        if volume.kind == OTHER:
            yield _refusal(volume, "cannot be replaced by an empty folder", "exists")
        elif volume.open_inside:
            yield finding(
                TOPIC,
                "refuse",
                f"{_name(volume)}: {volume.open_inside}",
                "Close it first, or choose another policy.",
            )
        else:
            yield finding(
                TOPIC,
                "warn",
                f"{_name(volume)}: is empty on {self.there}",
                f"Choose --volume {volume.source}=sync to take it along.",
            )


def _name(volume: Volume) -> str:
    return f"volume {volume.source} (mounted at {', '.join(volume.points)})"


def _refusal(volume: Volume, problem: str, instead: Policy) -> Finding:
    return finding(TOPIC, "refuse", f"{_name(volume)}: {problem}", f"Choose {instead}.")
