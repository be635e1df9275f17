"""`linux.resources` in the words of systemd.resource-control(5).

Lives here: which limit is which property, and the few properties annotations may set.
Must not live here: what systemd has no word for; the files of the cgroup take that, and
every exact number that systemd would round. Imported by `driver`.

The properties are not only set for show: systemd writes them again whenever it reloads.
"""

from __future__ import annotations

from migrate.errors import CgroupError
from migrate.runtime.cgroup.limits_v2 import io_weight, swap_only, weight_of_shares
from migrate.runtime.systemd import device_allow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    Property = tuple[str, tuple[str, Any]]

INFINITY = (1 << 64) - 1
DEFAULT_PERIOD_US = 100_000
# One percent of a processor: systemd keeps a quota in these.
QUOTA_STEP_US = 10_000
IDLE_SINCE = 252
ANNOTATION = "org.systemd.property."
# Any property would let a container's annotations stop other units (Conflicts=), hold up
# the shutdown, or leave its slice. These concern the unit alone.
ANNOTATIONS = {
    "CollectMode": "s",
    "MemoryHigh": "t",
    "MemoryLow": "t",
    "MemoryMin": "t",
    "RuntimeMaxUSec": "t",
    "TimeoutStopUSec": "t",
}
COLLECT_MODES = ("inactive", "inactive-or-failed")
# v2 file -> property, for the files of `unified` that are one number or "max"
UNIFIED_NUMBERS = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}
UNIFIED_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def of_resources(
    resources: Mapping[str, Any], *, unified: bool, version: int, devices: bool
) -> list[Property]:
    """Return the properties of a container's limits.

    Args:
        resources: `linux.resources`, decoded and valid.
        unified: the host has cgroup v2 alone.
        version: of systemd.
        devices: with the device rules, as at the creation.
    """
    found: list[Property] = []
    if devices:
        found += device_allow.of(resources.get("devices") or (), unified=unified)
    found += _memory(resources.get("memory") or {}, unified=unified)
    found += _cpu(resources.get("cpu") or {}, unified=unified, version=version)
    limit = (resources.get("pids") or {}).get("limit") or 0
    if limit:
        found.append(("TasksMax", ("t", _bound(limit))))
    weight = (resources.get("blockIO") or {}).get("weight") or 0
    if weight:
        name, value = ("IOWeight", io_weight(weight)) if unified else ("BlockIOWeight", weight)
        found.append((name, ("t", value)))
    if unified:
        found += _unified(resources.get("unified") or {})
    return found


def of_annotations(annotations: Mapping[str, str]) -> list[Property]:
    """Return what annotations `org.systemd.property.NAME` set, see runc's docs/systemd.md.

    Raises:
        CgroupError: not one of the few that concern the unit alone, or no such value.
    """
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key.removeprefix(ANNOTATION)
        factor = 1
        if name.endswith("Sec") and not name.endswith("USec"):
            name, factor = f"{name.removesuffix('Sec')}USec", 1_000_000
        if name not in ANNOTATIONS:
            raise CgroupError(
                f"annotation {key} sets a property that this program lets no container set",
                f"Leave it out; these are taken: {', '.join(sorted(ANNOTATIONS))}.",
            )
        found.append((name, (ANNOTATIONS[name], _value(key, text, ANNOTATIONS[name], factor))))
    return found


def _value(key: str, text: str, kind: str, factor: int) -> str | int:
    """Return the value of a GVariant text: `uint64 5`, `'inactive'`."""
    word = text.strip()
    if kind == "s":
        if word[:1] in ("'", '"') and word[-1:] == word[:1] and word[1:-1] in COLLECT_MODES:
            return word[1:-1]
    else:
        digits = word.rpartition(" ")[2]
        kinds = ("", "uint64", "int64", "uint32", "int32")
        # int() takes more than ASCII digits.
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= 20
        if is_number and word.rpartition(" ")[0].strip() in kinds:
            number = int(digits) * factor
            if number <= INFINITY:
                return number
    raise CgroupError(
        f"annotation {key} has the value {text!r}, which cannot be one",
        'Write it as GVariant text, such as "uint64 30" or "\'inactive-or-failed\'".',
    )


def _bound(value: int) -> int:
    """Return a bound, where a negative one is none."""
    return INFINITY if value < 0 else value


def _memory(memory: Mapping[str, Any], *, unified: bool) -> Iterator[Property]:
    limit, both = memory.get("limit") or 0, memory.get("swap") or 0
    if limit:
        yield "MemoryMax", ("t", _bound(limit))
    if not unified:
        return  # on v1 systemd has neither a soft limit nor one of swap
    swap = swap_only(both, limit)
    if swap or both > 0:
        yield "MemorySwapMax", ("t", _bound(swap))
    if memory.get("reservation"):
        yield "MemoryLow", ("t", _bound(memory["reservation"]))


def _cpu(cpu: Mapping[str, Any], *, unified: bool, version: int) -> Iterator[Property]:
    if unified and cpu.get("idle") and version >= IDLE_SINCE:
        yield "CPUWeight", ("t", 0)
    elif cpu.get("shares"):
        if unified:
            yield "CPUWeight", ("t", weight_of_shares(cpu["shares"]))
        else:
            yield "CPUShares", ("t", min(max(cpu["shares"], 2), 262_144))
    yield from _quota(cpu.get("quota") or 0, cpu.get("period") or 0)
    for field, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(field):
            yield name, ("ay", mask(cpu[field]))


def _quota(quota: int, period: int) -> Iterator[Property]:
    """Yield a quota as time in a second, rounded up as systemd keeps it.

    Down would leave a container's own groups less than they ask for; the exact number is
    then written to the file.
    """
    if period:
        yield "CPUQuotaPeriodUSec", ("t", period)
    if quota or period:
        in_a_second = INFINITY
        if quota > 0:
            in_a_second = quota * 1_000_000 // (period or DEFAULT_PERIOD_US)
            in_a_second = -(-in_a_second // QUOTA_STEP_US) * QUOTA_STEP_US
        yield "CPUQuotaPerSecUSec", ("t", in_a_second)


def mask(ranges: str) -> bytes:
    """Return a list such as "0-2,5" as bits, the lowest first.

    Raises:
        CgroupError: it is no such list.
    """
    bits = 0
    for part in ranges.split(","):
        if not part.strip():
            continue
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        ends = (first, last)
        if not all(end.isascii() and end.isdigit() and len(end) <= 5 for end in ends):
            raise CgroupError(f'"{ranges}" is no list of numbers', 'Write such as "0-2,5".')
        if int(first) > int(last):
            raise CgroupError(f'"{ranges}" has a range that ends before it begins')
        bits |= (1 << (int(last) + 1)) - (1 << int(first))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _unified(files: Mapping[str, str]) -> Iterator[Property]:
    """Yield what systemd has of the v2 files; the others are written to the cgroup only."""
    for name, text in files.items():
        value = text.strip()
        if name in UNIFIED_NUMBERS:
            if value == "max":
                yield UNIFIED_NUMBERS[name], ("t", INFINITY)
            elif value.isascii() and value.isdigit() and int(value) < INFINITY:
                yield UNIFIED_NUMBERS[name], ("t", int(value))
        elif name in UNIFIED_SETS:
            yield UNIFIED_SETS[name], ("ay", mask(value))
        elif name == "cpu.max":
            quota, _, period = value.partition(" ")
            numbers = (quota.replace("max", "0"), period or str(DEFAULT_PERIOD_US))
            if all(number.isascii() and number.isdigit() for number in numbers):
                yield from _quota(int(numbers[0]), int(numbers[1]))
