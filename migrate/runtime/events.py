"""What happens in a container: its counters, and memory running out.

Lives here: waiting for both. Must not live here: the counters themselves
(`cgroup.counters`). May be imported by every room above `runtime`. Not to be confused with
`migrate.events`, which is what this program itself does.
"""

from __future__ import annotations

import os
import select
import time

from migrate.errors import WrongStatus
from migrate.runtime import cgroup, state
from migrate.runtime.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from migrate.runtime.state import Record


def counters(record: Record) -> dict[str, Any]:
    """Return one event with the container's counters, in runc's form.

    Raises:
        WrongStatus: the container has stopped.
    """
    if state.status(record) == "stopped":
        raise WrongStatus(f"container with id {record['id']} is not running")
    return _event(record)


def _event(record: Record) -> dict[str, Any]:
    """Return the counters as they are; of a cgroup that is gone they are zero."""
    data = cgroup.stats(record["cgroup"])
    if "rdt" in record:
        from migrate.runtime import resctrl_counters

        data["intel_rdt"] = resctrl_counters.read(record["rdt"])
    return {"type": "stats", "id": record["id"], "data": data}


def follow(record: Record, interval_seconds: float) -> Iterator[dict[str, Any]]:
    """Yield counters at each interval and `oom` events at once, until the container ends.

    Raises:
        WrongStatus: it has ended before the first.
    """
    first = counters(record)
    pidfd = state.open_pidfd(record)
    if pidfd is None:
        return
    memory = _MemoryWatch(record["cgroup"])
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        memory.register(poll)
        due = time.monotonic() + interval_seconds
        yield first
        while True:
            left = max(0.0, due - time.monotonic())
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if memory.fd in ready:
                for _ in range(memory.times()):
                    yield {"type": "oom", "id": record["id"]}
            if pidfd in ready:
                return
            if time.monotonic() >= due:
                due += interval_seconds
                yield _event(record)
    finally:
        memory.close()
        os.close(pidfd)


class _MemoryWatch:
    """A descriptor that becomes ready when the container runs out of memory.

    v1: an eventfd registered in cgroup.event_control; v2: memory.events itself, which
    poll(2) reports as changed.

    Attributes:
        fd: -1 where the container has no memory controller.
    """

    def __init__(self, paths: dict[str, str]) -> None:
        self.fd = -1
        self._seen = 0
        self._is_v2 = False
        directory = cgroup.directory_of(paths, "memory")
        if directory is not None:
            self.fd = self._register_v1(directory)
        elif "" in paths:
            path = f"{paths['']}/memory.events"
            if os.path.exists(path):
                self.fd, self._is_v2 = os.open(path, os.O_RDONLY | os.O_CLOEXEC), True
                self._seen = self._killed()

    def register(self, poll: select.poll) -> None:
        """Have it waited for."""
        if self.fd >= 0:
            poll.register(self.fd, select.POLLPRI if self._is_v2 else select.POLLIN)

    def times(self) -> int:
        """Return how often memory ran out since the last call."""
        if not self._is_v2:
            return int.from_bytes(os.read(self.fd, 8), "little")
        before, self._seen = self._seen, self._killed()
        return max(0, self._seen - before)

    def close(self) -> None:
        """Stop watching."""
        if self.fd >= 0:
            os.close(self.fd)

    def _killed(self) -> int:
        """Return v2's count of processes killed for lack of memory."""
        return files.keyed(os.pread(self.fd, 4096, 0).decode()).get("oom_kill", 0)

    @staticmethod
    def _register_v1(directory: str) -> int:
        """Return an eventfd the kernel counts up at each event."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(f"{directory}/cgroup.event_control", f"{event} {control}")
        except BaseException:
            os.close(event)
            raise
        finally:
            os.close(control)
        return event
