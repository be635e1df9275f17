"""The destination's side of the memory: taken in, and given to who is restored.

Lives here: the two ways in which it comes, each from its stream to the processes. Must
not live here: the rest of what arrives (`live.incoming`). `live` only.

                          StreamedMemory          PagedMemory
    begin()               room is made            pages are taken in, while it runs there
    await_images()        the stream is taken in
    summary()             all of it has come
    prepare()             large memory is taken   CRIU's list says which pages count
                          out of the images
    restoring()                                   who touches memory is answered
    held()                and written into the    or: all of it is written
                          held processes
    resumed()                                     all of it is filled in, as fast as it goes
    is_whole()                                    nothing is missing any more

Memory that is paged is all here before anything runs; it is only not in its place yet. So
the container need not wait for that: who touches a page that is missing gets it first
(userfaultfd(2)). In a user namespace that needs privileges, so there it is written before.
"""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

from migrate.checkpoint import apart, left_out
from migrate.checkpoint.address_store import AddressStore
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.keeping import Keeping, Kept
from migrate.checkpoint.mappings import Span
from migrate.checkpoint.page_store import PageStore, Stored
from migrate.checkpoint.pages import PE_LAZY, StreamSummary
from migrate.checkpoint.reserve import Reserve
from migrate.checkpoint.userfaults import Collector
from migrate.errors import CriuError
from migrate.events import Log, emit
from migrate.live import pre_copy, stop_copy
from migrate.live.restorer import Restorer
from migrate.live.work import Work
from migrate.transport.link import Link

_LOOK_SECONDS = 0.05
_MOST_KEEPERS = 3


class TakingMemory(Protocol):
    """One arriving container's memory; `close` it.

    Attributes:
        is_lazy: CRIU leaves the missing pages to userfaultfd.
        fillers: processes that fill in what is missing, if anything is.
    """

    is_lazy: bool

    @property
    def fillers(self) -> tuple[int, ...]: ...  # noqa: D102

    def begin(self) -> None:
        """Begin, while the container runs at the source."""

    def await_images(self) -> None:
        """The freeze is near; CRIU is about to be started."""

    def summary(self) -> StreamSummary | None:
        """Wait until all of it has come; return what it was."""

    def prepare(self, images: ImageDirectory) -> None:
        """Make images ready that CRIU has not read yet."""

    def restoring(self, restorer: Restorer) -> None:
        """CRIU restores."""

    def held(self, first_pid: int) -> None:
        """The processes are there, and held."""

    def resumed(self) -> None:
        """They run."""

    def is_whole(self, timeout_seconds: float) -> bool:
        """Wait until nothing is missing; return whether that is so."""

    def give_up(self) -> None:
        """The container is about to be killed: let nobody wait for memory."""

    def end(self) -> None:
        """Wait for what is still taken in, after its stream was refused."""

    def close(self) -> None:
        """Let go of everything."""


def taking(stream: str, link: Link, work: str, facts: Facts) -> TakingMemory:
    """Return what takes memory in that comes by a stream of this name.

    Args:
        work: folder in memory, for nothing else.
    """
    if stream == pre_copy.STREAM:
        return PagedMemory(link, work, facts)
    return StreamedMemory(link, work, facts)


def _limit(facts: Facts) -> int:
    """Return how much memory is taken in at most: it may grow while it is sent, not at will."""
    return facts.memory_bytes * stop_copy.MEMORY_SLACK + stop_copy.MEMORY_SLACK_BYTES


class StreamedMemory:
    """Memory that comes from CRIU at the source, while the container stands still."""

    is_lazy = False
    fillers = ()

    def __init__(self, link: Link, work: str, facts: Facts) -> None:
        self._link = link
        self._images = ImageDirectory(f"{work}/images")
        self._reserve = Reserve.of(self._images.descriptor, facts)
        self._limit_bytes = _limit(facts)
        self._work = Work("memory", self._take)
        self._stored: list[Stored] = []
        self._parts: list[apart.Part] = []

    def begin(self) -> None:
        """Take memory from the kernel."""
        self._reserve.start()

    def await_images(self) -> None:
        """Take the stream in."""
        apart.preload()
        self._work.start()

    def summary(self) -> StreamSummary | None:
        """Wait for its end."""
        return self._work.result()

    def prepare(self, images: ImageDirectory) -> None:
        """Take large memory out of the images."""
        self._parts = apart.set_apart(images, self._stored, apart.preload())

    def restoring(self, restorer: Restorer) -> None:
        """Do nothing: CRIU reads the rest by itself."""

    def held(self, first_pid: int) -> None:
        """Write it into the processes."""
        apart.fill(self._parts, first_pid)

    def resumed(self) -> None:
        """Do nothing: all is in its place."""

    def is_whole(self, timeout_seconds: float) -> bool:
        """Return that it is."""
        del timeout_seconds
        return True

    def give_up(self) -> None:
        """Do nothing: nobody waits."""

    def end(self) -> None:
        """Wait for the stream's thread."""
        self._work.end()

    def close(self) -> None:
        """Give everything back."""
        for part in self._parts:
            part.close()
        self._parts = []
        self._reserve.close()
        self._images.close()

    def _take(self) -> StreamSummary:
        store = PageStore(
            self._images.descriptor, limit_bytes=self._limit_bytes, reserve=self._reserve
        )
        try:
            with self._link.accept_stream(stop_copy.STREAM) as stream:
                for chunk in stream:
                    store.feed(chunk)
            summary = store.finish()
            self._stored = store.images
            return summary
        finally:
            store.close()


class PagedMemory:
    """Memory that has come page by page, while the container ran."""

    def __init__(self, link: Link, work: str, facts: Facts) -> None:
        self.is_lazy = not facts.user_namespace
        self._link = link
        self._images_path = f"{work}/images"
        self._store = AddressStore(work, limit_bytes=_limit(facts))
        self._messages = left_out.preload()
        self._work = Work("pages", self._take)
        self._parts: list[apart.Part] = []
        self._spans: list[tuple[int, list[Span]]] = []
        self._collector: Collector | None = None
        self._keeping: Keeping | None = None
        self._keepers = 1

    @property
    def fillers(self) -> tuple[int, ...]:
        """The keeper, where there is one."""
        return (self._keeping.pid,) if self._keeping is not None else ()

    def begin(self) -> None:
        """Take pages in."""
        self._work.start()

    def await_images(self) -> None:
        """Listen for CRIU, and start the keeper's interpreter."""
        if self.is_lazy:
            self._collector = Collector(self._images_path)
            self._keeping = Keeping()

    def summary(self) -> StreamSummary | None:
        """Wait for its end."""
        return self._work.result()

    def prepare(self, images: ImageDirectory) -> None:
        """Note which pages count; without userfaultfd, have CRIU forget them."""
        if not self.is_lazy:
            self._parts = apart.take_left_out(images, self._store, self._messages)
            return
        for process, _, entries in left_out.lists_of_pages(images, self._messages):
            spans = [span for span, flags in entries if flags & PE_LAZY]
            self._spans.append((process, spans))

    def restoring(self, restorer: Restorer) -> None:
        """Answer who touches memory: CRIU's own last steps do, too.

        Raises:
            CriuError: CRIU ended, or the keeper did.
        """
        if self._collector is None or self._keeping is None:
            return
        # Those that miss nothing, too: who touches a page that never was waits as well.
        wanted = dict(self._spans)
        while not self._collector.wait(set(wanted), _LOOK_SECONDS):
            if restorer.has_ended:
                return  # who waits for it says why
        self._keeping.start(
            (
                Kept(
                    pid=process,
                    userfaultfd=userfaultfd,
                    store=self._store.file_of(process),
                    spans=[(start, end - start) for start, end in wanted.get(process, ())],
                )
                for process, userfaultfd in self._collector.taken().items()
            ),
            fill=False,
        )
        self._collector.let_go()  # or untouched pages would wait for it, too

    def held(self, first_pid: int) -> None:
        """Write it into the processes, where nobody can do that later."""
        apart.fill(self._parts, first_pid)

    def resumed(self) -> None:
        """Fill in what is missing."""
        if self._keeping is not None:
            self._keeping.fill()

    def is_whole(self, timeout_seconds: float) -> bool:
        """Wait until nothing is missing; a keeper that was killed is replaced.

        Raises:
            CriuError: keepers fail, one after the other: tasks wait for memory.
        """
        if self._keeping is None:
            return True
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                return self._keeping.wait(max(0.0, deadline - time.monotonic()))
            except CriuError as error:
                if self._keepers == _MOST_KEEPERS:
                    raise
                self._keepers += 1
                emit(Log(level="warning", message=f"{error.message}: starting another"))
                with contextlib.suppress(CriuError):  # the next wait says so
                    self._keeping.restart()

    def give_up(self) -> None:
        """Let whoever waits for memory have zeros: CRIU cannot end it before it has them."""
        if self._keeping is not None:
            self._keeping.close()
            self._keeping = None
        if self._collector is not None:
            self._collector.close()
            self._collector = None

    def end(self) -> None:
        """Wait for the stream's thread."""
        self._work.end()

    def close(self) -> None:
        """Let go; a keeper goes on by itself until nothing is missing."""
        for part in self._parts:
            part.close()
        self._parts = []
        self.give_up()
        self._store.close()

    def _take(self) -> StreamSummary:
        with self._link.accept_stream(pre_copy.STREAM) as stream:
            for chunk in stream:
                self._store.feed(chunk)
        return self._store.finish()
