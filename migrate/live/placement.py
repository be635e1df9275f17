"""Which container goes to which host.

Lives here: one pure function and its data. Must not live here: finding out what fits
(`preflight`), moving (`drain`). `live` only.

The largest containers choose first, each the host with the fewest objections, and of
those the one that has most memory left. Who comes away empty-handed would not have
fitted anywhere in what is left at the end, since room only shrinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one container takes."""

    container: str
    memory_bytes: int
    disk_bytes: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What one file system has left.

    Attributes:
        files: how many more can be made; -1 where there is no limit.
    """

    free_bytes: int
    files: int = -1

    def fits(self, demand: Demand) -> bool:
        """Tell whether a container's files fit."""
        return demand.disk_bytes <= self.free_bytes and (
            self.files < 0 or demand.files <= self.files
        )

    def without(self, demand: Demand) -> Disk:
        """Return what is left with a container's files on it."""
        files = self.files if self.files < 0 else self.files - demand.files
        return Disk(free_bytes=self.free_bytes - demand.disk_bytes, files=files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one host has left.

    Attributes:
        disks: by whatever tells them apart.
    """

    memory_bytes: int
    disks: Mapping[str, Disk]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one host says to one container.

    Attributes:
        disk: on which of its file systems the bundle would be.
        refusal: why it cannot come, "" where it can.
        warnings: how much about it would change.
    """

    disk: str
    refusal: str = ""
    warnings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where one container goes.

    Attributes:
        host: or "" for nowhere; then reason says why.
    """

    container: str
    host: str
    reason: str = ""


def place(
    demands: Sequence[Demand],
    rooms: Mapping[str, Room],
    offers: Mapping[tuple[str, str], Offer],
) -> list[Placed]:
    """Return where each container goes, in the order in which they should begin.

    Args:
        demands: the containers.
        rooms: the hosts.
        offers: by container and host; a host without an offer is not asked.
    """
    left = dict(rooms)
    placed = []
    for demand in sorted(demands, key=lambda each: (-each.memory_bytes, each.container)):
        host = _best(demand, left, offers)
        if not host:
            reason = _reason(demand.container, rooms, offers)
            placed.append(Placed(container=demand.container, host="", reason=reason))
            continue
        room, disk = left[host], offers[demand.container, host].disk
        left[host] = Room(
            memory_bytes=room.memory_bytes - demand.memory_bytes,
            disks={**room.disks, disk: room.disks[disk].without(demand)},
        )
        placed.append(Placed(container=demand.container, host=host))
    return placed


def _best(demand: Demand, left: Mapping[str, Room], offers: Mapping[tuple[str, str], Offer]) -> str:
    """Return the best host for a container, "" for none."""
    candidates = []
    for host, room in left.items():
        offer = offers.get((demand.container, host))
        if offer is None or offer.refusal or demand.memory_bytes > room.memory_bytes:
            continue
        if room.disks[offer.disk].fits(demand):
            candidates.append((offer.warnings, demand.memory_bytes - room.memory_bytes, host))
    return min(candidates)[2] if candidates else ""


def _reason(
    container: str, rooms: Mapping[str, Room], offers: Mapping[tuple[str, str], Offer]
) -> str:
    """Return why a container goes nowhere."""
    heard = [offers[container, host] for host in rooms if (container, host) in offers]
    refusals = [offer.refusal for offer in heard if offer.refusal]
    if not heard:
        return "no host could be asked"
    if len(refusals) < len(heard):
        return "the hosts that would take it have no room left beside the others"
    return refusals[0] + (f" (and {len(refusals) - 1} more)" if refusals[1:] else "")
