"""How a process shares processors and disks, set from the host's side.

Lives here: scheduling policy, I/O priority and CPU affinity of a process that is still
being set up. Must not live here: what may be asked for (`spec.scheduling`). Imported
by `launch` and `execute` where a process asks for one of them.

From outside, since the process may be in a user namespace, where even root may not
raise a priority; runc's is refused there.
"""

from __future__ import annotations

import os
import sys

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime.spec import scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import IOPriority, Process, Scheduler

_EPERM = 1
_EBUSY = 16
_SCHED_ATTR_BYTES = 56  # SCHED_ATTR_SIZE_VER1
_IOPRIO_WHO_PGRP = 2

_HINTS: dict[int, str] = {
    _EPERM: "It needs CAP_SYS_NICE, a real-time budget of the control group "
    "(resources.cpu.realtimeRuntime on v1), and for SCHED_DEADLINE all CPUs.",
    _EBUSY: "Ask for less runtime in a period: the deadlines of all tasks fill the CPUs.",
}


def apply(pid: int, process: Process) -> None:
    """Set the priorities a process asks for.

    Args:
        pid: leader of a process group of its own.
        process: valid.

    Raises:
        StageError: the kernel refuses one of them.
    """
    if "scheduler" in process:
        _schedule(pid, process["scheduler"])
    if "ioPriority" in process:
        _prioritize(pid, process["ioPriority"])


def _schedule(pid: int, scheduler: Scheduler) -> None:
    order = sys.byteorder
    flags = sum(scheduling.FLAGS[flag] for flag in set(scheduler.get("flags", [])))
    attributes = b"".join(
        value.to_bytes(size, order, signed=value < 0)
        for value, size in (
            (_SCHED_ATTR_BYTES, 4),
            (scheduling.POLICIES[scheduler["policy"]], 4),
            (flags, 8),
            (scheduler.get("nice", 0), 4),
            (scheduler.get("priority", 0), 4),
            (scheduler.get("runtime", 0), 8),
            (scheduler.get("deadline", 0), 8),
            (scheduler.get("period", 0), 8),
            (0, 4),  # of the utilization clamps the runtime-spec has the flags alone
            (0, 4),
        )
    )
    try:
        syscalls.sched_setattr(pid, attributes)
    except KernelError as error:
        raise StageError(
            f"cannot set the scheduler to {scheduler['policy']}: {_reason(error)}",
            _HINTS.get(error.errno, "See sched_setattr(2) for what goes together."),
        ) from None


def _prioritize(pid: int, priority: IOPriority) -> None:
    value = scheduling.IO_CLASSES[priority["class"]] << scheduling.IO_CLASS_SHIFT
    try:
        syscalls.ioprio_set(_IOPRIO_WHO_PGRP, pid, value | priority["priority"])
    except KernelError as error:
        raise StageError(
            f"cannot set the I/O priority to {priority['class']}: {_reason(error)}",
            "IOPRIO_CLASS_RT needs CAP_SYS_NICE." if error.errno == _EPERM else "",
        ) from None


def set_affinity(pid: int, cpus: str, where: str) -> None:
    """Keep a process on some CPUs.

    Args:
        cpus: a valid list; nothing is changed where it is empty.
        where: its JSON path, for the error.

    Raises:
        StageError: none of them is there for the process.
    """
    wanted = scheduling.numbers(cpus, where, scheduling.MOST_CPUS)
    if not wanted:
        return
    try:
        os.sched_setaffinity(pid, wanted)
    except OSError as error:
        raise StageError(
            f"{where}: cannot keep the process on CPUs {cpus}: {str(error.strerror).lower()}",
            "Name CPUs that the machine, and the container's cpuset, have.",
        ) from None


def _reason(error: KernelError) -> str:
    return os.strerror(error.errno).lower()
