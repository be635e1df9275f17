"""Strategy stop-copy: all of the memory is sent while the container stands still.

Lives here: the memory stream. Must not live here: the order of the frozen part
(`live.frozen_copy`). `live` only.
"""

from __future__ import annotations

from migrate.checkpoint.facts import Facts
from migrate.checkpoint.left_out import LeftOut
from migrate.checkpoint.pages import PageSource
from migrate.events import Progress, emit
from migrate.live.report import Bytes
from migrate.transport.link import Link

# More than the memory that was counted may be in the stream: it grew, and records.
MEMORY_SLACK = 4
MEMORY_SLACK_BYTES = 256 << 20
PROGRESS_BYTES = 16 << 20
STREAM = "memory"


class StreamedMemory:
    """Memory that goes from CRIU into the link; a `live.frozen_copy.Memory`."""

    def __init__(self, link: Link, facts: Facts) -> None:
        self._facts = facts
        budget = facts.memory_bytes * MEMORY_SLACK + MEMORY_SLACK_BYTES
        self._stream = link.open_stream(STREAM, budget)
        self._shown = 0
        self.pages = PageSource(self._send)
        self.left_out: LeftOut | None = None

    @property
    def sent(self) -> Bytes:
        """What went out so far."""
        return Bytes(self._stream.raw_bytes, self._stream.wire_bytes)

    def frozen(self) -> None:
        """Do nothing: CRIU brings it."""

    def end_stream(self) -> None:
        """Say that all of it was sent."""
        self._stream.close()

    def close(self) -> None:
        """Let go of what was opened; may be called again."""
        self.pages.close()

    def _send(self, chunk: memoryview) -> None:
        """Send memory; called by the page source's thread."""
        stream = self._stream
        stream.write(chunk)
        if stream.raw_bytes - self._shown >= PROGRESS_BYTES:
            self._shown = stream.raw_bytes
            emit(
                Progress(
                    step="memory",
                    done_bytes=stream.raw_bytes,
                    total_bytes=max(stream.raw_bytes, self._facts.memory_bytes),
                    wire_bytes=stream.wire_bytes,
                )
            )
