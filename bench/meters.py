"""What two hosts used between two moments: processor, memory, wire.

Lives here: reading the counters of a host's control groups and of its link. Needs
the hosts of `tests.support.hosts`, whose processes are all below one group.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.hosts import Host


def _group(host: Host, controller: str) -> Path:
    """Return the host's group of a version 1 controller, or of version 2 where it is there."""
    for hierarchy, top in host.nest.tops.items():
        if controller in hierarchy.options.split(","):
            return top
    return next(top for hierarchy, top in host.nest.tops.items() if hierarchy.is_v2)


def cpu_seconds(host: Host) -> float:
    """Return the processor time everything in the host has used so far."""
    v1 = _group(host, "cpuacct") / "cpuacct.usage"
    if v1.exists():
        return int(v1.read_text()) / 1e9
    stat = (_group(host, "cpuacct") / "cpu.stat").read_text().split()
    return int(stat[stat.index("usage_usec") + 1]) / 1e6


def memory_bytes(host: Host) -> int:
    """Return what the host holds now beside caches of files on disk."""
    group = _group(host, "memory")
    words = (group / "memory.stat").read_text().split()
    numbers = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    if (group / "memory.usage_in_bytes").exists():
        return numbers["total_rss"] + numbers.get("total_shmem", 0)
    return numbers["anon"] + numbers["shmem"]


def wire_bytes(host: Host) -> int:
    """Return the bytes that went over the host's link so far, both ways."""
    statistics = host.folder("/sys/class/net/eth0/statistics")
    return sum(int((statistics / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


@dataclass(frozen=True, slots=True)
class Used:
    """What a stretch of time cost.

    Attributes:
        seconds: how long it took.
        wire_bytes: over the source's link, both ways, headers included.
        cpu_seconds: of all hosts together.
        source_cpu_seconds: of the source alone.
        peak_bytes: the most that all hosts together held beyond what they held at
            its beginning: programs, and images in memory.
    """

    seconds: float
    wire_bytes: int
    cpu_seconds: float
    source_cpu_seconds: float
    peak_bytes: int


class Meter:
    """Counts from its creation on; call `look` often for the peak."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._wire = wire_bytes(hosts[0])
        self._cpu = [cpu_seconds(host) for host in hosts]
        self._memory = sum(map(memory_bytes, hosts))
        self._peak = self._memory
        self._started = time.monotonic()

    def look(self) -> None:
        """Note how much memory is held now."""
        self._peak = max(self._peak, sum(map(memory_bytes, self._hosts)))

    def stop(self) -> Used:
        """Return what was used since the creation."""
        seconds = time.monotonic() - self._started
        cpu = [
            cpu_seconds(host) - before for host, before in zip(self._hosts, self._cpu, strict=True)
        ]
        return Used(
            seconds=seconds,
            wire_bytes=wire_bytes(self._hosts[0]) - self._wire,
            cpu_seconds=sum(cpu),
            source_cpu_seconds=cpu[0],
            peak_bytes=self._peak - self._memory,
        )
