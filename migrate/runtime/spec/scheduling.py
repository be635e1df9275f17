"""Rules of how a container's processes share processors, disks and memory.

Lives here: the checks of `scheduler`, `ioPriority`, `execCPUAffinity`, `memoryPolicy`
and `personality`, and the numbers the kernel has for their words. Must not live here:
setting them. Imported where a configuration has one of them, which few have.
"""

from __future__ import annotations

import sys

from migrate.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import (
        IOPriority,
        Linux,
        MemoryPolicy,
        Personality,
        Process,
        Scheduler,
    )

# linux/sched.h
POLICIES: dict[str, int] = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS: dict[str, int] = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
REAL_TIME = ("SCHED_FIFO", "SCHED_RR")
# linux/ioprio.h
IO_CLASSES: dict[str, int] = {
    "IOPRIO_CLASS_RT": 1,
    "IOPRIO_CLASS_BE": 2,
    "IOPRIO_CLASS_IDLE": 3,
}
IO_CLASS_SHIFT = 13
# linux/mempolicy.h
MEMORY_MODES: dict[str, int] = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS: dict[str, int] = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
WITH_OR_WITHOUT_NODES = ("MPOL_PREFERRED",)
# linux/personality.h
PERSONALITIES: dict[str, int] = {"LINUX": 0x0000, "LINUX32": 0x0008}

# More than any kernel is built for (CONFIG_NR_CPUS, MAX_NUMNODES).
MOST_CPUS = 8192
MOST_NODES = 1024
_LONG_BYTES = 8


def check_process(process: Process, path: str) -> None:
    """Refuse priorities that cannot be meant.

    Raises:
        ConfigError: names the JSON path and what is wrong.
    """
    if "scheduler" in process:
        _scheduler(process["scheduler"], f"{path}.scheduler")
    if "ioPriority" in process:
        _io_priority(process["ioPriority"], f"{path}.ioPriority")
    affinity = process.get("execCPUAffinity", {})
    for name, text in affinity.items():
        numbers(str(text), f"{path}.execCPUAffinity.{name}", MOST_CPUS)


def check_linux(linux: Linux, path: str) -> None:
    """Refuse a memory policy or a personality that cannot be meant, see `check_process`."""
    if "memoryPolicy" in linux:
        memory_policy(linux["memoryPolicy"], f"{path}.memoryPolicy")
    if "personality" in linux:
        persona(linux["personality"], f"{path}.personality")


def _scheduler(scheduler: Scheduler, where: str) -> None:
    policy = scheduler["policy"]
    if not -20 <= scheduler.get("nice", 0) <= 19:
        raise ConfigError(f"{where}.nice", f"{scheduler['nice']} is not between -20 and 19")
    priority = scheduler.get("priority", 0)
    if policy in REAL_TIME:
        if not 1 <= priority <= 99:
            raise ConfigError(
                f"{where}.priority", f"{priority} is not between 1 and 99, as {policy} needs it"
            )
    elif priority:
        raise ConfigError(
            f"{where}.priority",
            "can only be specified for SCHED_FIFO or SCHED_RR",
            "Use nice, or another policy.",
        )
    runtime, deadline = scheduler.get("runtime", 0), scheduler.get("deadline", 0)
    period = scheduler.get("period", 0)
    if policy != "SCHED_DEADLINE":
        if runtime or deadline or period:
            raise ConfigError(
                where, "runtime, deadline and period can only be specified for SCHED_DEADLINE"
            )
        return
    if not 0 < runtime <= deadline <= (period or deadline):
        raise ConfigError(
            where, "SCHED_DEADLINE needs 0 < runtime <= deadline <= period", "Give nanoseconds."
        )


def _io_priority(priority: IOPriority, where: str) -> None:
    level = priority["priority"]
    if not 0 <= level <= 7:
        raise ConfigError(f"{where}.priority", f"{level} is not between 0 and 7")


def memory_policy(policy: MemoryPolicy, where: str) -> tuple[int, bytes]:
    """Return a policy as set_mempolicy(2) takes it: mode with flags, and nodes.

    Raises:
        ConfigError: the mode takes no nodes, or needs some.
    """
    mode = policy["mode"]
    nodes = numbers(policy.get("nodes", ""), f"{where}.nodes", MOST_NODES)
    if nodes and mode in WITHOUT_NODES:
        raise ConfigError(f"{where}.nodes", f"{mode} takes no nodes", "Remove it.")
    if not nodes and mode not in WITHOUT_NODES + WITH_OR_WITHOUT_NODES:
        raise ConfigError(f"{where}.nodes", f"{mode} needs at least one node", 'Write "0".')
    bits = sum(1 << node for node in nodes)
    longs = -(-bits.bit_length() // (8 * _LONG_BYTES))
    flags = sum(MEMORY_FLAGS[flag] for flag in set(policy.get("flags", [])))
    return MEMORY_MODES[mode] | flags, bits.to_bytes(longs * _LONG_BYTES, sys.byteorder)


def persona(personality: Personality, where: str) -> int:
    """Return a personality's number.

    Raises:
        ConfigError: it has flags, of which the runtime-spec supports none.
    """
    if personality.get("flags"):
        raise ConfigError(f"{where}.flags", "no flag is supported", "Remove it.")
    return PERSONALITIES[personality["domain"]]


def numbers(text: str, where: str, most: int) -> list[int]:
    """Return the numbers of a list such as "0-3,7", sorted; empty for an empty text.

    Args:
        text: in the words of cpuset(7), "List format".
        where: its JSON path.
        most: how many numbers there are; the highest is one less.

    Raises:
        ConfigError: it is no such list.
    """
    found: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        first, dash, last = part.strip().partition("-")
        ends = [first, last if dash else first]
        if not all(end.isascii() and end.isdigit() and len(end) < 6 for end in ends):
            raise ConfigError(where, f'"{text}" is no list such as 0-3,7')
        low, high = int(ends[0]), int(ends[1])
        if low > high or high >= most:
            raise ConfigError(where, f'"{part.strip()}" is no range of 0-{most - 1}')
        found.update(range(low, high + 1))
    return sorted(found)
