"""Everything of a container outside its root file system, in the order of a migration.

Lives here: what the source asks, decides and sends of volumes, layers, hooks and paths.
Must not live here: the rules (`decide`), the passes (`live.filesystem.trees`). `live`
only.

    travel = Travel(wanted, subject, bundle)
    travel.consult(reached)     findings; nothing is touched but by markers, for a moment
    travel.stowage()            what the destination is told to make
    travel.config(bytes)        config.json with its paths over there
    travel.trees(link)          the passes
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from migrate.errors import ConfigError, MigrateError, ProtocolError
from migrate.events import Finding
from migrate.live.comparison import finding
from migrate.live.filesystem.trees import ROOTFS, SourceTrees, Tree
from migrate.live.volumes import layers
from migrate.live.volumes.alike import marker, split, tree_digest
from migrate.live.volumes.decide import Decision, Sight, decide
from migrate.live.volumes.find import Bundles, find
from migrate.live.volumes.layers import Layers, Overlay
from migrate.live.volumes.mapping import Wanted
from migrate.live.volumes.stowage import tree_of
from migrate.live.volumes.volume import FILE, FOLDER, Seen, Stowed, Volume
from migrate.live.wire import Fields
from migrate.live.work import Work

if TYPE_CHECKING:
    from migrate.live.reach import Reached
    from migrate.live.subject import Subject
    from migrate.transport.link import Link

LOOK_SECONDS = 60.0
# More than this is not read on both hosts to find out that it is the same.
MOST_COMPARED_BYTES = 4 << 30
MOST_COMPARED_FILES = 500_000
DIGEST_SECONDS = 1800.0
# Hooks that belong to the making of a container, where another host has its own.
RUN_ON_ARRIVAL = ("prestart", "createRuntime")


class Travel:
    """The travel of one container.

    Args:
        wanted: what is called otherwise over there.
        bundle: path over there.

    Raises:
        UsageError: a volume that is wanted is none of the container's.
    """

    def __init__(self, wanted: Wanted, subject: Subject, bundle: str) -> None:
        record = subject.record
        self._wanted = wanted
        self._id = record["id"]
        self._bundle_here = record["bundle"]
        self._rootfs = record["rootfs"]
        self._hooks = subject.spec.get("hooks") or {}
        self._bundles = Bundles(record["bundle"], record["rootfs"], bundle)
        self._volumes = find(subject, wanted.volumes, self._bundles)
        self._layers = layers.find(self._rootfs)
        self._decisions: list[Decision] = []
        self._overlay: Overlay | None = None

    # --- the questions ---

    def consult(self, reached: Reached) -> list[Finding]:
        """Ask the destination, decide, and return what was found.

        Raises:
            TransportError: the link broke.
            ProtocolError: an answer is none.
        """
        if not (self._volumes or self._layers or self._hooks or self._wanted.hooks):
            return []
        here, there = os.uname().nodename, reached.peer.host
        with contextlib.ExitStack() as stack:
            markers = [self._marker(stack, each) for each in self._volumes]
            answer = self._ask(reached.link, markers)
        seen = [Seen.from_json(each) for each in answer.value.get("volumes") or ()]
        if len(seen) != len(self._volumes):
            raise ProtocolError("volumes: the answer is of other volumes")
        compared = [
            each for each, at in zip(self._volumes, seen, strict=True) if _is_compared(each, at)
        ]
        wanted = [(each.source, each.there, each.kind) for each in compared]
        lower = self._lower_there() if self._can_be_layers(answer) else []
        wanted += [(source, path, "layer") for source, path in lower]
        alike = self._compare(reached.link, wanted)
        sights = [
            Sight(
                volume=volume,
                seen=at,
                is_alike=alike[(volume.source, volume.there)] if volume in compared else None,
                is_shared=bool(text) and at.marker == text,
            )
            for volume, at, (_, text) in zip(self._volumes, seen, markers, strict=True)
        ]
        self._decisions = decide(sights, here=here, there=there)
        findings = [each for decision in self._decisions for each in decision.findings]
        findings += self._judge_layers([pair for pair in lower if not alike[pair]], answer, there)
        findings += self._judge_hooks(answer, there)
        return findings

    def _marker(self, stack: contextlib.ExitStack, volume: Volume) -> tuple[str, str]:
        """Put a marker where storage may be shared."""
        may_be = volume.asked == "shared" or (
            not volume.asked and volume.is_of_others and volume.is_writable
        )
        if not may_be or volume.kind not in (FOLDER, FILE):
            return "", ""
        return stack.enter_context(marker(split(volume.source, is_file=volume.kind == FILE)[0]))

    def _ask(self, link: Link, markers: list[tuple[str, str]]) -> Fields:
        question = {
            "container": self._id,
            "bundle": self._bundles.there,
            "volumes": [
                {"path": each.there, "marker": name}
                for each, (name, _) in zip(self._volumes, markers, strict=True)
            ],
            "layers": [path for _, path in self._lower_there()],
            "programs": self._poststop(),
        }
        return Fields("volumes", link.call("volumes", question, LOOK_SECONDS))

    def _compare(
        self, link: Link, wanted: Sequence[tuple[str, str, str]]
    ) -> dict[tuple[str, str], bool]:
        """Return whether each is the same on both hosts; both look at the same time.

        Args:
            wanted: path here, path there, and kind.
        """
        if not wanted:
            return {}
        ours = Work("digests", lambda: [_digest(here, kind) for here, _, kind in wanted])
        ours.start()
        question = [{"path": there, "kind": kind} for _, there, kind in wanted]
        try:
            theirs = link.call("digests", {"trees": question}, DIGEST_SECONDS)
        finally:
            ours.end()
        if not isinstance(theirs, list) or len(theirs) != len(wanted):
            raise ProtocolError("digests: the answer is of other trees")
        return {
            (here, there): bool(mine) and mine == other
            for (here, there, _), mine, other in zip(wanted, ours.result(), theirs, strict=True)
        }

    # --- layers ---

    def _lower_there(self) -> list[tuple[str, str]]:
        """Return the lower layers, here and there."""
        if not isinstance(self._layers, Layers):
            return []
        return [(path, self._wanted.layers.get(path, path)) for path in self._layers.lower]

    def _can_be_layers(self, answer: Fields) -> bool:
        present = answer.value.get("layers")
        return answer.value.get("takes_layers") is True and bool(present) and all(present or ())

    def _judge_layers(
        self, others: list[tuple[str, str]], answer: Fields, there: str
    ) -> Iterator[Finding]:
        """Decide whether the upper layer travels alone, and say why not."""
        if self._layers is None:
            return
        lower = self._lower_there()
        if isinstance(self._layers, str):
            reason = self._layers
        elif answer.value.get("takes_layers") is not True:
            reason = f"{self._bundles.there} on {there} can hold no overlay"
        elif not self._can_be_layers(answer):
            present = answer.value.get("layers") or [False] * len(lower)
            missing = next(
                path for (_, path), is_there in zip(lower, present, strict=False) if not is_there
            )
            reason = f"layer {missing} is not on {there}"
        elif others:
            reason = f"layer {others[0][1]} of {there} differs"
        else:
            overlay = Overlay(lower=[path for _, path in lower], options=[*self._layers.options])
            if overlay.has_room(self._bundles.there):
                self._overlay = overlay
                yield finding(
                    "layers",
                    "ok",
                    f"only the upper layer of the rootfs goes: {there} has the {len(lower)} lower",
                )
                return
            reason = "its layers have too many or too odd names"
        yield finding(
            "layers",
            "ok",
            f"all of the rootfs goes, not only its upper layer: {reason}",
            "Name the destination's layers by --map.",
        )

    # --- hooks ---

    def _poststop(self) -> list[str]:
        """Return the programs that a delete over there would run."""
        hooks = self._wanted.hooks.get("poststop", self._hooks.get("poststop")) or ()
        return [each["path"] for each in hooks]

    def _judge_hooks(self, answer: Fields, there: str) -> Iterator[Finding]:
        for kind in RUN_ON_ARRIVAL:
            hooks = self._hooks.get(kind) or ()
            if hooks and kind not in self._wanted.hooks:
                yield finding(
                    "hooks",
                    "warn",
                    f"{kind} hook {hooks[0]['path']} is not run on {there}: what it would make is "
                    "the migration's, or missing",
                    f"Name {there}'s own by --map, or drop it there.",
                )
        present = answer.value.get("programs") or ()
        for path, is_there in zip(self._poststop(), present, strict=False):
            if not is_there:
                yield finding(
                    "hooks",
                    "warn",
                    f"poststop hook {path} is not on {there}: a delete there cannot run it",
                    f"Put it there, name {there}'s own by --map, or drop it there.",
                )

    @property
    def arrival_hooks(self) -> list[str]:
        """The kinds of hooks that are run on arrival: those that the mapping names."""
        return [kind for kind in RUN_ON_ARRIVAL if self._wanted.hooks.get(kind)]

    # --- what travels ---

    def _stowed(self) -> list[tuple[Decision, str]]:
        """Return what is made on the destination, and its path there."""
        found: list[tuple[Decision, str]] = []
        for each in self._decisions:
            if each.policy == "skip":
                found.append((each, f"{self._bundles.there}/volumes/{len(found)}"))
            elif each.policy == "sync" and not each.within:
                found.append((each, each.volume.there))
        return found

    def stowage(self) -> dict[str, Any]:
        """Return what the destination shall make."""
        rows = []
        for decision, path in self._stowed():
            status = os.stat(decision.volume.source)
            stowed = Stowed(
                path=path,
                kind=decision.volume.kind,
                policy=decision.policy or "",
                mode=status.st_mode & 0o7777,
                uid=status.st_uid,
                gid=status.st_gid,
            )
            rows.append(asdict(stowed))
        overlay = None if self._overlay is None else self._overlay.to_json()
        return {"volumes": rows, "overlay": overlay}

    @property
    def left(self) -> list[str]:
        """Paths here whose content goes along: they may be written again on its return."""
        return [each.volume.source for each in self._decisions if each.policy == "sync"]

    def trees(self, link: Link) -> SourceTrees:
        """Return the passes of everything that is copied.

        Raises:
            OSError: a tree cannot be opened.
        """
        root = Tree(label=ROOTFS, root=self._rootfs)
        if self._overlay is not None and isinstance(self._layers, Layers):
            root = Tree(label=ROOTFS, root=self._layers.upper, layer=True)
        trees = [root]
        for at, (decision, _) in enumerate(self._stowed()):
            volume = decision.volume
            if decision.policy == "sync":
                trees.append(tree_of(at, volume.source, volume.kind, self._points(volume)))
        shared = [each.volume.source for each in self._decisions if each.policy == "shared"]
        return SourceTrees(link, trees, shared=shared)

    def _points(self, volume: Volume) -> dict[str, str]:
        """Return where the container sees a volume, and what lies in it."""
        points = dict.fromkeys(volume.points, "")
        for each in self._decisions:
            if each.within == volume.source:
                inside = each.volume.source[len(volume.source) :].strip("/")
                points.update(dict.fromkeys(each.volume.points, inside))
        return points

    def config(self, raw: bytes) -> str:
        """Return config.json as the destination has it.

        Raises:
            ConfigError: it is not what it was when the container was made.
        """
        try:
            config = json.loads(raw)
            mounts = config.get("mounts") or []
            for mount in mounts:
                options = mount.get("options") or ()
                if mount.get("type") == "bind" or {"bind", "rbind"} & set(options):
                    mount["source"] = self._source_there(mount["source"])
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise ConfigError("$.mounts", f"cannot be read: {error}") from None
        if self._wanted.hooks:
            config["hooks"] = {**(config.get("hooks") or {}), **self._wanted.hooks}
        return json.dumps(config, indent=4)

    def _source_there(self, source: str) -> str:
        """Return what a bind mount's source is called over there."""
        path = os.path.normpath(os.path.join(self._bundle_here, source))
        target = self._bundles.counterpart(path)
        for decision in self._decisions:
            if decision.volume.source == path:
                target = decision.volume.there
        for decision, place in self._stowed():
            if decision.volume.source == path:
                target = place
        is_kept = os.path.normpath(os.path.join(self._bundles.there, source)) == target
        return source if is_kept else target


def _is_compared(volume: Volume, seen: Seen) -> bool:
    """Tell whether both hosts look into it: it is read-only, and may be the same."""
    return (
        not (volume.asked or volume.is_writable or volume.is_of_kernel or volume.is_in_bundle)
        and volume.kind in (FOLDER, FILE)
        and seen.kind == volume.kind
        and volume.size_bytes <= MOST_COMPARED_BYTES
        and volume.files <= MOST_COMPARED_FILES
    )


def _digest(path: str, kind: str) -> str:
    """Return the digest of something here, "" where it cannot be read."""
    try:
        return tree_digest(path, is_file=kind == FILE, layer=kind == "layer")
    except (OSError, MigrateError):
        return ""
