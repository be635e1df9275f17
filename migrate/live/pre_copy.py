"""Strategy pre-copy: memory is sent while the container runs, and then what is left.

Lives here: the passes over the running container, and the one when it stands still.
Must not live here: how memory is read and watched (`checkpoint.memory_copy`), when to
stop (`live.strategy`), the order of the frozen part (`live.frozen_copy`). `live` only.

    approach()      passes, until what is left is small or does not get smaller
    frozen()        what was written since, beside CRIU's dump
    (post-dump)     once more, for what CRIU itself may have touched; then what its list
                    of pages has that was never sent
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from migrate.checkpoint import procfs
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.left_out import LeftOut
from migrate.checkpoint.mappings import Span
from migrate.checkpoint.memory_copy import MemoryCopy, Pass
from migrate.checkpoint.pages import PageSource, StreamSummary
from migrate.errors import MigrationError
from migrate.events import Progress, emit
from migrate.live.report import Bytes
from migrate.live.strategy import MOST_PASSES, Limits, expected_downtime, goes_on
from migrate.live.work import Work
from migrate.transport.link import Link

STREAM = "pages"
_BUDGET_SLACK_BYTES = 1 << 30
_PROGRESS_BYTES = 16 << 20
_LONGEST_WAIT_SECONDS = 0.5
NO_LIMITS = Limits()


class CopiedMemory:
    """Memory that is copied before the freeze; a `live.frozen_copy.Memory`.

    Args:
        first_pid: the container's first process.
        limits: what the user allows.
        by_kernel: let the kernel tell what was written, where it can.
    """

    def __init__(
        self,
        link: Link,
        facts: Facts,
        first_pid: int,
        *,
        limits: Limits = NO_LIMITS,
        by_kernel: bool = True,
    ) -> None:
        self._first_pid = first_pid
        self._limits = limits
        self._began = time.monotonic()
        self._is_frozen = False
        self._expected_bytes = facts.memory_bytes
        budget = facts.memory_bytes * (MOST_PASSES + 2) + _BUDGET_SLACK_BYTES
        self._stream = link.open_stream(STREAM, budget)
        self._copy = MemoryCopy(self._send, by_kernel=by_kernel)
        self._shown = 0
        self._last: Work[Pass] = Work("last-pass", self._pass_over_frozen)
        self.history: list[Pass] = []
        self.pages: PageSource | None = None
        self.left_out = LeftOut(self._complete)

    @property
    def sent(self) -> Bytes:
        """What went out so far."""
        return Bytes(self._stream.raw_bytes, self._stream.wire_bytes)

    def approach(self) -> None:
        """Send it while the container runs, until another pass is not worth it."""
        while goes_on(self.history):
            self.history.append(self._copy.pass_over(self._processes()))

    def expected_downtime(self) -> float:
        """Return how long it would stand still if it were frozen now, in seconds.

        Raises:
            MigrationError: longer than is allowed.
        """
        expected = expected_downtime(self.history, self._expected_bytes)
        most = self._limits.downtime_seconds
        if most is not None and expected > most:
            raise MigrationError(
                f"it would stand still for about {expected:.2f} s, --max-downtime is {most:g} s",
                "Allow more, or try again when it writes less into its memory.",
            )
        return expected

    def pass_once_more(self) -> None:
        """Send what was written since, however much it is."""
        self.history.append(self._copy.pass_over(self._processes()))

    def frozen(self) -> None:
        """Begin to send what was written since."""
        self._is_frozen = True
        self._last.start()

    def end_stream(self) -> None:
        """Say that all of it was sent."""
        self._stream.close()

    def close(self) -> None:
        """Stop watching; may be called again."""
        self._last.end()
        self._copy.close()
        self.left_out.close()

    def _processes(self) -> list[tuple[int, int]]:
        return [(pid, number) for number, pid in procfs.descendants(self._first_pid).items()]

    def _pass_over_frozen(self) -> Pass:
        return self._copy.pass_over(self._processes(), frozen=True)

    def _complete(self, wanted: Iterable[tuple[int, list[Span]]]) -> StreamSummary:
        """Send the rest; called when CRIU has listed the pages."""
        self.history.append(self._last.result())
        processes = self._processes()
        self._copy.pass_over(processes, frozen=True)
        return self._copy.complete(_with_pids(wanted, processes))

    def _send(self, batch: memoryview) -> None:
        stream = self._stream
        stream.give(batch)
        self._keep_pace()
        if stream.raw_bytes - self._shown >= _PROGRESS_BYTES:
            self._shown = stream.raw_bytes
            emit(
                Progress(
                    step="memory",
                    done_bytes=stream.raw_bytes,
                    total_bytes=max(stream.raw_bytes, self._expected_bytes),
                    wire_bytes=stream.wire_bytes,
                )
            )

    def _keep_pace(self) -> None:
        """Wait where more was sent than the user allows; not while it stands still."""
        most = self._limits.bytes_per_second
        while most is not None and not self._is_frozen:
            early = self._stream.wire_bytes / most - (time.monotonic() - self._began)
            if early <= 0:
                return
            time.sleep(min(early, _LONGEST_WAIT_SECONDS))


def _with_pids(
    wanted: Iterable[tuple[int, list[Span]]], processes: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, list[Span]]]:
    """Yield what is wanted with the pid of its process here before it."""
    pids = {number: pid for pid, number in processes}
    for number, spans in wanted:
        if number not in pids:
            raise MigrationError(f"process {number} was dumped, and is not in the container")
        yield pids[number], number, spans
