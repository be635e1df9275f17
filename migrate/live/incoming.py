"""What arrives on the destination, and what becomes of it, piece by piece.

Lives here: the threads that take in files and memory, and the restore that waits for
them. Must not live here: the journal and the calls (`live.destination`). `live` only.

    make()           folders, control groups, network (down); files begin to arrive
    await_images()   CRIU is started and waits; memory may begin to arrive
    verify()         small images arrive, all of it is checked
    restore()        CRIU goes on, and is held at the end
    let_go()         the commit

"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from migrate.checkpoint import wholeness
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.images import MANIFEST, ImageDirectory, Manifest
from migrate.checkpoint.locate import find_criu
from migrate.checkpoint.restore import Restore
from migrate.errors import CriuError, HookError, ImageError, ProtocolError
from migrate.events import Log, emit
from migrate.live import arrival, pre_copy, restoring, stop_copy
from migrate.live.arrival import Place
from migrate.live.filesystem import trees
from migrate.live.network.build import Built, build
from migrate.live.network.plan import Plan
from migrate.live.reality import criu_in
from migrate.live.restorer import Restorer
from migrate.live.taking_memory import TakingMemory, taking
from migrate.live.wire import Fields
from migrate.live.work import Work
from migrate.runtime import cgroup, hooks
from migrate.runtime.spec.decoding import decode
from migrate.transport.link import Link

# Small images: many processes with many mappings still fit a hundred times.
LARGEST_IMAGES_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the source says of the container before it sends it.

    Attributes:
        config: config.json as the bundle here has it.
        record: what is kept of the source's record.
        paused: it shall arrive frozen.
        hooks: kinds of those in config.json that are run here, of this host's own.
        files: paths here that its standard output and error go to.
        memory: how it comes: `memory`, from CRIU while it stands still, or `pages`,
            while it runs.
    """

    config: bytes
    facts: Facts
    network: Plan
    record: dict[str, Any]
    paused: bool
    hooks: list[str]
    memory: str
    migration: str
    files: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def of(fields: Fields) -> Announced:
        """Return what a `receive` call says.

        Raises:
            MigrateError: it is not acceptable; says what.
        """
        try:
            config = json.loads(fields.text("config"))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"config.json of the source: {error}") from None
        memory = fields.text("memory")
        if memory not in (stop_copy.STREAM, pre_copy.STREAM):
            raise ProtocolError(f"receive: memory comes by an unknown stream {memory}")
        return Announced(
            memory=memory,
            config=json.dumps(arrival.config_for(config), indent=4).encode(),
            facts=Facts.from_json(fields.object("facts")),
            network=Plan.from_json(fields.object("network")),
            record=_record_of(Fields("receive: record", fields.object("record"))),
            paused=fields.claim("paused"),
            hooks=[str(each) for each in fields.value.get("hooks") or ()],
            migration=fields.text("migration"),
            files=_files_of(fields.object("files")),
        )


def _files_of(said: dict[str, Any]) -> dict[int, str]:
    """Return which files take which standard descriptors."""
    if not said.keys() <= {"1", "2"} or not all(
        isinstance(path, str) and path.startswith("/") and "\0" not in path
        for path in said.values()
    ):
        raise ProtocolError("receive: files for the output are not what they should be")
    return {int(number): path for number, path in said.items()}


def _record_of(said: Fields) -> dict[str, Any]:
    """Return what is kept of the source's record.

    What a record cannot hold must show here: after the commit it would be too late.
    """
    annotations, stdio = said.object("annotations"), said.value.get("stdio")
    if not isinstance(stdio, list):
        raise ProtocolError("receive: record: stdio is no list")
    if not all(isinstance(each, str) for each in (*annotations.values(), *stdio)):
        raise ProtocolError("receive: record: annotations or stdio hold what is no text")
    return {
        "created": said.text("created"),
        "oci_version": said.text("oci_version"),
        "owner": said.text("owner"),
        "annotations": annotations,
        "stdio": stdio,
        "terminal": said.claim("terminal"),
    }


class Incoming:
    """One arriving container.

    Args:
        link: to the source.
        criu: as given by --criu.
    """

    def __init__(self, link: Link, place: Place, announced: Announced, criu: str | None) -> None:
        self.place = place
        self.announced = announced
        self._link = link
        self._criu = criu
        self._spec = decode(announced.config, "config.json of the source")
        self._stack = contextlib.ExitStack()
        self._images: ImageDirectory | None = None
        self._taking: TakingMemory | None = None
        self._network: Built | None = None
        self._restorer: Restorer | None = None
        self._restore: Restore | None = None
        self._files: Work[None] | None = None
        self._hooks_ran = False

    @property
    def is_held(self) -> bool:
        """Whether it is restored, and has not run."""
        return self._restorer is not None and self._restorer.is_held

    @property
    def may_have_run(self) -> bool:
        """Whether it was let go, or nearly."""
        return self._restorer is not None and self._restorer.may_have_run

    def make(self, record: Callable[[dict[str, Any]], None]) -> None:
        """Make everything that can be made while the container still runs there.

        Args:
            record: notes what of the network is about to be made.
        """
        linux = self._spec.get("linux") or {}
        arrival.make(self.place, self.announced.config, linux.get("resources"))
        self._network = self._stack.enter_context(build(self.announced.network, record))
        for setting in self._network.left_out:
            emit(Log(level="warning", message=f"setting {setting} is not known here"))
        images = self._stack.enter_context(ImageDirectory(self.place.images, create=True))
        self._images = images
        memory = taking(self.announced.memory, self._link, self.place.work, self.announced.facts)
        self._taking = self._stack.enter_context(contextlib.closing(memory))
        memory.begin()
        self._files = Work("files", self._take_files)
        self._files.start()

    def await_images(self) -> None:
        """Start CRIU, up to its gate, and take in memory."""
        self._memory.await_images()
        if not self._is_late:
            self._begin()

    def verify(self, manifest_text: str) -> bytes:
        """Take in the small images; return the inventory once all is as it should be.

        Raises:
            ImageError: something is not what the manifest says.
            MigrateError: something did not arrive.
        """
        images = self._opened()
        manifest = Manifest.decode(manifest_text.encode())
        if manifest.migration != self.announced.migration or (
            manifest.facts != self.announced.facts
        ):
            raise ImageError("manifest is of another migration")
        with self._link.accept_stream("images", max_bytes=LARGEST_IMAGES_BYTES) as stream:
            inventory = images.receive(manifest, stream)
        memory = self._memory
        summary = memory.summary()
        if self._files is not None:
            self._files.result()
        if self._is_late:
            self.place.stowed.mount()
            self._begin()
        if manifest.memory != summary:
            raise ImageError("memory was damaged on its way: its digest differs")
        images.write(MANIFEST, manifest.encode())
        memory.prepare(images)
        return inventory

    def restore(self, inventory: bytes) -> int:
        """Let CRIU restore, and return the first process's pid once it is held.

        Args:
            inventory: opens the gate.

        Raises:
            CriuError: it failed, in plain words; `stop` ends what is left of it.
        """
        if self._restorer is None or self._restore is None:
            raise ProtocolError("nothing waits for images")
        self._restore.open_gate(inventory)
        self._memory.restoring(self._restorer)
        pid = self._restorer.wait_held()
        self._memory.held(pid)
        if not self._restorer.is_held:
            raise CriuError("criu was killed while memory was written into what it restored")
        return pid

    def let_go(self) -> float:
        """Let it run; return how long that took, in seconds."""
        if self._restorer is None:
            raise ProtocolError("nothing is held")
        heard = time.monotonic()
        try:
            return self._restorer.let_go() - heard
        finally:
            if self._restorer.may_have_run:
                self._memory.resumed()

    def is_whole(self, timeout_seconds: float) -> bool:
        """Wait until all of its memory is in its place; return whether it is.

        Raises:
            CriuError: it does not get there.
        """
        return self._memory.is_whole(timeout_seconds)

    @property
    def fillers(self) -> tuple[int, ...]:
        """Processes that fill in what is missing of its memory, if anything is."""
        return self._memory.fillers

    def note_missing(self, folder: str) -> None:
        """Note in a container's state folder that its memory is not all there, if so."""
        if self.fillers:
            wholeness.note(folder, (os.getpid(), *self.fillers))

    def stop(self) -> None:
        """End all of it: what is held is killed, what arrives is not wanted."""
        self._link.refuse_streams("the migration was given up")
        if self._taking is not None:
            self._taking.give_up()
        if self._restorer is not None:
            self._restorer.refuse()
        self._undo_hooks()
        self.close()

    def settle(self) -> None:
        """Let go of CRIU; what runs, runs on."""
        if self._restorer is not None:
            if self._network is not None and self._restorer.has_resumed:
                self._network.switches.announce()  # the first one may have been lost
            problem = self._restorer.finish()
            if problem is not None:
                emit(Log(level="warning", message=problem.message))
            self._restorer = None

    def close(self) -> None:
        """Let go of CRIU and of what was opened."""
        self.settle()
        if self._taking is not None:
            self._taking.end()
        if self._files is not None:
            self._files.end()
        self._stack.close()

    # Restoring.

    @property
    def _is_late(self) -> bool:
        """Whether CRIU finds the root file system only once all of its files are there."""
        return self.place.stowed.overlay is not None

    def _begin(self) -> None:
        """Start CRIU where the container shall live."""
        network = self._network
        if network is None:
            raise ProtocolError("nothing was received")
        restore = restoring.prepare(
            self._stack,
            find_criu(self._criu),
            self.announced,
            self.place,
            self._spec,
            self._opened(),
            network,
            is_lazy=self._memory.is_lazy,
        )
        self._restore = restore
        self._restorer = Restorer(
            restore,
            connect=network.switches.up,
            pause=self._pause if self.announced.paused else None,
            prepare=self._run_hooks if self.announced.hooks else None,
        )
        self._restorer.start()

    def _run_hooks(self, pid: int) -> None:
        """Run the hooks that stand here for those the container was made with."""
        for kind in self.announced.hooks:
            self._hooks_ran = True  # one that fails has had others before it
            hooks.run(kind, self._spec, self._as_record(), "creating", pid)

    def _undo_hooks(self) -> None:
        """Let hooks take back what those before them did; nothing else can."""
        if self._hooks_ran:
            self._hooks_ran = False
            try:
                hooks.run("poststop", self._spec, self._as_record(), "stopped", 0)
            except HookError as error:
                emit(Log(level="warning", message=error.message))

    def _as_record(self) -> Any:
        """Return what hooks are told of the container."""
        return {
            "id": self.place.container_id,
            "bundle": self.place.bundle,
            "oci_version": self.announced.record["oci_version"],
            "annotations": self.announced.record["annotations"],
        }

    def _pause(self) -> None:
        """Freeze it before its first step; CRIU, which has one more to do, steps aside."""
        own = {key: tree.own for key, tree in cgroup.hierarchies().items()}
        here = {key: own[key] for key in self.place.cgroup if key in own}
        for pid in criu_in(self.place.cgroup):
            cgroup.add(here, pid)
        cgroup.freeze(self.place.cgroup)

    # Taking in.

    def _take_files(self) -> None:
        trees.receive(self._link, self.place.stowed.trees(self.place.rootfs))

    @property
    def _memory(self) -> TakingMemory:
        if self._taking is None:
            raise ProtocolError("nothing was received")
        return self._taking

    def _opened(self) -> ImageDirectory:
        if self._images is None:
            raise ProtocolError("nothing was received")
        return self._images
