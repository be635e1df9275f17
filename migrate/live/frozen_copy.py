"""The part of a migration during which the container stands still, and its commit.

Lives here: its order, which every strategy shares. Must not live here: what becomes of
the memory (`live.stop_copy`, `live.pre_copy`), what comes before and after
(`live.source`). `live` only.

    CRIU's stage     here                                    over there
    pre-dump         frozen; files are synced, and memory
                     that was copied before is copied again  CRIU waits at its gate
    network-lock     links down
    (dumping)        memory that was not leaves as it is
                     read                                    pages are written
    post-dump        frozen again by the fence; small
                     images and the manifest leave           verified, restored, HELD
                     COMMITTED, on disk, and said            links up, it runs: ACTIVE
    (answered yes)   ACTIVE was heard: its tasks die

The handlers run in CRIU's order in the main thread: a signal, a broken link or a full
disk raises in them, CRIU is answered no, and lets go of the tasks into the fence. There
they stay as long as it is not known that others run in their place.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from migrate.checkpoint.dump import Dump
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.images import ImageDirectory, Manifest
from migrate.checkpoint.left_out import LeftOut
from migrate.checkpoint.options import Request
from migrate.checkpoint.pages import PageSource
from migrate.checkpoint.session import Notification
from migrate.errors import MigrationError
from migrate.live.filesystem.mapped import Held, open_for_writing, shared_mappings
from migrate.live.filesystem.trees import SourceTrees
from migrate.live.phases import Phase
from migrate.live.reach import Reached
from migrate.live.reality import stamp
from migrate.live.report import Bytes
from migrate.live.restoring import request_for
from migrate.live.work import Work
from migrate.runtime import cgroup

if TYPE_CHECKING:
    from migrate.live.source import Migration

ACTIVE_SECONDS = 60.0


class Memory(Protocol):
    """What becomes of the memory: a strategy's part of the frozen copy.

    Attributes:
        pages: takes it from CRIU as it is dumped, or None.
        left_out: has it sent beside the dump, or None.
        sent: contents, raw and on the wire, so far.
    """

    @property
    def pages(self) -> PageSource | None: ...  # noqa: D102

    @property
    def left_out(self) -> LeftOut | None: ...  # noqa: D102

    @property
    def sent(self) -> Bytes: ...  # noqa: D102

    def frozen(self) -> None:
        """Nothing of the container runs any more; called as soon as that is so."""

    def end_stream(self) -> None:
        """Everything was sent: say so."""


class FrozenCopy:
    """One frozen copy.

    Args:
        run: the migration it belongs to.
        memory: what becomes of the memory.
        tree: the root file system and what is copied beside it, sent once already.
        work: folder for the small images, to be made.
    """

    def __init__(
        self,
        run: Migration,
        reached: Reached,
        facts: Facts,
        tree: SourceTrees,
        memory: Memory,
        work: str,
    ) -> None:
        self._run = run
        self._memory = memory
        self._link = reached.link
        self._facts = facts
        self._tree = tree
        self._work = work
        self._images: ImageDirectory | None = None
        self._dump: Dump | None = None
        self._sync: Work[Bytes] | None = None
        self._resume_seconds = 0.0

    def run(self) -> float:
        """Freeze, copy and commit; return how long resuming took over there, in seconds.

        Raises:
            LinkError: the source has committed and the answer did not come.
            MigrateError: something failed; `journal` tells before or after the commit.
        """
        run = self._run
        mapped = shared_mappings(cgroup.procs(run.record["cgroup"]))
        os.makedirs(self._work, 0o700, exist_ok=True)
        memory = self._memory
        with ImageDirectory(f"{self._work}/images", create=True) as images:
            self._images = images
            with Dump(
                run.criu,
                self._facts,
                self._request(),
                cgroup=run.record["cgroup"],
                images=images,
                pages=memory.pages,
                lazy=memory.left_out,
                migration=run.migration,
            ) as dump:
                self._dump = dump
                is_last = not self._facts.has_remapped_links
                self._sync = Work("frozen-files", lambda: self._sync_files(mapped, last=is_last))
                run.journal.intend(Phase.FROZEN, stamp("criu", dump.criu_pid))
                try:
                    dump.run(
                        {
                            "pre-dump": self._frozen,
                            "network-lock": self._locked,
                            "post-dump": self._dumped,
                        }
                    )
                finally:
                    self._sync.end()
                    run.transfers["memory"] = memory.sent
        return self._resume_seconds

    def _request(self) -> Request:
        """Packets are kept away by the links, unless some never meet one."""
        request = request_for(self._facts, has_links=self._run.has_links)
        return replace(request, lazy_pages=self._memory.left_out is not None)

    # CRIU's stages.

    def _frozen(self, _: Notification) -> bool:
        if self._dump is not None:
            self._run.timeline.marks["freeze"] = self._dump.freeze_began
        self._run.enter(Phase.FROZEN, durable=False)
        if self._sync is not None:
            self._sync.start()
        self._memory.frozen()
        return True

    def _locked(self, _: Notification) -> bool:
        self._run.cut()
        return True

    def _dumped(self, _: Notification) -> bool:
        """Everything is in the images, and the fence stands: send, hear HELD, commit."""
        run = self._run
        run.timeline.mark("dumped")
        run.cut()  # a container without connections is never locked by CRIU
        if self._dump is None or self._dump.manifest is None or self._sync is None:
            raise AssertionError("dumped before it was dumped")
        self._memory.end_stream()
        manifest = self._dump.manifest
        run.journal.intend(Phase.SENT, durable=False)
        # Beside the call that makes the other side take them in: both may wait.
        sending = Work("images", lambda: self._send_images(manifest))
        sending.start()
        try:
            run.transfers["rootfs again"] = self._sync.result()
            if self._facts.has_remapped_links:
                self._sync_files(set(), last=True)
            answer = self._link.call("restore", {"manifest": manifest.encode().decode()})
        finally:
            sending.end()
        run.transfers["images"] = sending.result()
        run.enter(Phase.SENT, durable=False)
        if not isinstance(answer, dict) or not isinstance(answer.get("pid"), int):
            raise MigrationError("the destination held nothing")
        run.timeline.mark("held")
        self._link.check()  # held there, it could be told only later: going on here is sooner
        run.commit()
        self._resume_seconds = self._hear_active()
        return True

    def _send_images(self, manifest: Manifest) -> Bytes:
        if self._images is None:
            raise AssertionError("no images before the dump")
        size = sum(each.bytes for each in manifest.files)
        with self._link.open_stream("images", size) as stream:
            for chunk in self._images.contents(manifest):
                stream.give(memoryview(chunk))
        return Bytes(stream.raw_bytes, stream.wire_bytes)

    def _sync_files(self, mapped: set[Held], *, last: bool) -> Bytes:
        """Send what changed since the files were sent; beside the dump.

        Args:
            last: no other pass follows. One does where CRIU itself gives files names
                that had lost theirs (`link_remap`): those must go along.
        """
        tasks = cgroup.procs(self._run.record["cgroup"])
        sent = self._tree.run(
            frozen=last,
            mapped=mapped | shared_mappings(tasks),
            writing=open_for_writing(tasks),
        )
        return Bytes(sent.content_bytes, sent.wire_bytes)

    def _hear_active(self) -> float:
        """Say the commit; return how long resuming took over there, in seconds."""
        value = {"container": self._run.record["id"], "unread": self._run.unread_output()}
        answer = self._link.call("commit", value, ACTIVE_SECONDS)
        self._run.timeline.mark("active")
        seconds = answer.get("resume_seconds") if isinstance(answer, dict) else None
        return float(seconds) if isinstance(seconds, int | float) else 0.0
