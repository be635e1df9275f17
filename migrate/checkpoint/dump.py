"""Dumping one container.

Lives here: the order of a dump: warm CRIU, freeze, dump, fence, sign off, let go. Must
not live here: options (`options`), what is frozen how (`fence`), two hosts (`live`).
May be imported by `checkpoint`, `live` and `cli`.

    Dump(...)           CRIU is started and asked for its version
    run(handlers)
      pre-dump          CRIU's own start-up is over: the container is frozen
      network-lock      every task is held by ptrace
      post-dump         frozen again (fence); images signed off; held as long as the
                        handler takes; True lets the tasks end, False gives up
      status-ready      only with a lazy server: their memory is fetched, then they end
    afterwards          tasks gone; or frozen, until the caller thaws the fence
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from migrate.checkpoint import failure, options, reopening, scheduling, sleepers, stopped, version
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.fence import Fence
from migrate.checkpoint.images import ImageDirectory, Manifest
from migrate.checkpoint.lazy import LazyServer
from migrate.checkpoint.left_out import LeftOut
from migrate.checkpoint.options import Request
from migrate.checkpoint.pages import PageSource, StreamSummary
from migrate.checkpoint.session import Handler, Notification, RequestFailed, Session
from migrate.errors import CriuError

LOG_NAME = "dump.log"


@dataclass(slots=True, frozen=True, kw_only=True)
class DumpTimes:
    """What CRIU itself measured, in microseconds."""

    freezing_us: int
    frozen_us: int


class Dump:
    """A dump that is prepared, run once, and closed.

    Args:
        criu: absolute path.
        cgroup: the container's control groups, as in its record.
        images: where the images go; has none yet.
        pages: where the memory goes, None to have it in the images.
        lazy: serves the memory afterwards, or sends it in its own way; the caller's to
            close, before this.
        work_directory: where CRIU's log goes; the images' directory if None.
        migration: id that the manifest names.

    Attributes:
        fence: what keeps the container from running; the caller's to thaw when
            `run` raised, and after a dump that left it running.
        manifest: of the finished images, from the `post-dump` handler on.
        freeze_began: when the tasks were asked to stop, on the monotonic clock.
    """

    def __init__(  # noqa: PLR0913 - each is a thing of its own
        self,
        criu: str,
        facts: Facts,
        request: Request,
        *,
        cgroup: Mapping[str, str],
        images: ImageDirectory,
        pages: PageSource | None = None,
        lazy: LazyServer | LeftOut | None = None,
        work_directory: str | None = None,
        migration: str = "",
    ) -> None:
        self.fence = Fence(cgroup, request.timeout_seconds)
        self.manifest: Manifest | None = None
        self.freeze_began = 0.0
        self._cgroup = cgroup
        self._has_stopped = False
        self._may_end = False
        self._facts = facts
        self._request = request
        self._images = images
        self._pages = pages
        self._lazy = lazy
        self._migration = migration
        self._core_message = sleepers.preload()
        self._file_message = reopening.preload()
        self._work = work_directory or images.path
        self._work_descriptor = os.open(self._work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._session = Session(
            criu,
            pass_fds=(
                *((pages.descriptor,) if pages else ()),
                *(lazy.descriptors if lazy else ()),
            ),
            own_group=not request.shell_job,
        )
        try:
            self._criu = version.require(self._session)
        except BaseException:
            self.close()
            raise

    def run(self, handlers: Mapping[str, Handler] | None = None) -> Manifest:
        """Dump the container and return the manifest of its images.

        Args:
            handlers: by notification; `pre-dump` and `post-dump` are called after
                what is done here anyway. `pre-dump` comes when nothing runs any more:
                right before `post-dump` where CRIU must stop the tasks by itself.

        Raises:
            CriuError: CRIU failed, in plain words. The container is frozen.
            Exception: what a handler or the page sink raised. The same.
        """
        theirs = dict(handlers or {})
        self._has_stopped = any(stopped.stopped(self._cgroup))
        if self.fence.was_frozen:
            stopped.refuse_frozen(self._cgroup)

        def freeze(notification: Notification) -> bool:
            self.freeze_began = time.monotonic()
            if self._has_stopped:
                return True  # they run on until CRIU has them
            self.fence.freeze()
            stopped.refuse_frozen(self._cgroup)
            return theirs.get("pre-dump", _agree)(notification)

        def hold(notification: Notification) -> bool:
            self.fence.freeze()
            if self._has_stopped and not theirs.get("pre-dump", _agree)(notification):
                return False
            memory = self._memory()
            sleepers.let_sleep_on(self._images, self._core_message)
            reopening.let_reopen(self._images, self._file_message)
            scheduling.write_down(self._images, self._cgroup)
            self.manifest = self._sign_off(memory)
            self._may_end = theirs.get("post-dump", _agree)(notification)
            return self._may_end

        def serve(_: Notification) -> bool:
            # CRIU comes here also where `post-dump` was answered no: then they must not end.
            if self._lazy and self._may_end:
                self._lazy.serve(self.fence.end)
            return self._may_end

        # With lazy pages they are ended once their memory was fetched; CRIU waits for that.
        ends_now = not self._request.leave_running and self._lazy is None
        acknowledged = {"post-dump": self.fence.end} if ends_now else {}
        if self._pages:
            self._pages.start()
        try:
            self._session.request(
                "DUMP",
                self._message(),
                {**theirs, "pre-dump": freeze, "post-dump": hold, "status-ready": serve},
                acknowledged,
            )
        except RequestFailed as error:
            raise self._explained(error) from error
        if self.manifest is None:
            raise CriuError("criu said that the dump is finished before it was")
        return self.manifest

    def _memory(self) -> StreamSummary | None:
        """Have all of the memory sent that is not in the images; return what it was."""
        if self._pages:
            return self._pages.finish()
        return self._lazy.finish(self._images) if isinstance(self._lazy, LeftOut) else None

    @property
    def criu_pid(self) -> int:
        """The process id of CRIU."""
        return self._session.pid

    def times(self) -> DumpTimes:
        """Return what CRIU measured of a dump that succeeded."""
        from pycriu import images

        path = f"/proc/self/fd/{self._work_descriptor}/stats-dump"
        with open(path, "rb") as file:
            statistics = images.load(file)["entries"][0]["dump"]
        return DumpTimes(
            freezing_us=int(statistics["freezing_time"]), frozen_us=int(statistics["frozen_time"])
        )

    def close(self) -> None:
        """End CRIU; what it may still hold it lets go of, into the fence."""
        if self._work_descriptor < 0:
            return
        if self._pages:
            self._pages.close()
        self._session.close()
        os.close(self._work_descriptor)
        self._work_descriptor = -1

    def _message(self) -> Any:
        """Return the options as CRIU's message."""
        message = self._session.options()
        options.apply(options.dump_options(self._facts, self._request), message)
        message.images_dir_fd = self._images.descriptor
        message.work_dir_fd = self._work_descriptor
        message.log_file = LOG_NAME
        if not self._has_stopped:
            message.freeze_cgroup = self.fence.directory
        if self._pages:
            message.ps.fd = self._pages.descriptor
        if self._lazy:
            message.config_file = self._lazy.configuration
        return message

    def _sign_off(self, memory: StreamSummary | None) -> Manifest:
        """Write the manifest of images that are complete."""
        return self._images.sign_off(
            self._facts,
            criu=self._criu,
            migration=self._migration,
            memory=memory,
            streamed=self._pages is not None,
        )

    def _explained(self, error: RequestFailed) -> BaseException:
        """Return the cause: what broke the page stream, or what the log says."""
        if self._pages and self._pages.error is not None:
            return self._pages.error
        log_path = os.path.join(self._work, LOG_NAME)
        return failure.explain("checkpoint", self._facts.container_id, log_path, error.message)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _agree(_: Notification) -> bool:
    """Answer yes."""
    return True
