"""What CRIU does not keep of how a thread shares the machine.

Lives here: an image of our own beside CRIU's, and giving back what it says. Must not
live here: when (`dump`, `restore`). May be imported by `checkpoint` only.

CRIU carries policy, priority and nice value; not the CPUs a thread keeps to, its I/O
priority and its timer slack. Each is written down only where it is not what every thread
has anyway, so most containers have no such image:

    {"INNER TID": {"cpus": [0, 2], "io": 16390, "slack_ns": 70000}, ...}
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from migrate import syscalls
from migrate.checkpoint import procfs
from migrate.checkpoint.images import ImageDirectory
from migrate.errors import ImageError, KernelError
from migrate.events import Log, emit
from migrate.runtime import cgroup

NAME = "scheduling.img"
_WHO_PROCESS = 1
_USUAL_SLACK_NS = 50000
_IO_CLASS_SHIFT = 13
_BEST_EFFORT = 2
_ONLINE = "/sys/devices/system/cpu/online"


def write_down(images: ImageDirectory, paths: Mapping[str, str]) -> None:
    """Write the image, where there is something for it.

    Args:
        paths: the container's control groups; its tasks are frozen.
    """
    found: dict[str, dict[str, Any]] = {}
    usual = _cpus_of(paths)
    for pid in cgroup.procs(paths):
        for thread in _threads(pid):
            with contextlib.suppress(OSError, KernelError):
                unusual = _unusual(thread, usual)
                if unusual:
                    found[str(_inner(pid, thread))] = unusual
    if found:
        images.write(NAME, json.dumps(found).encode())


def give_back(images: ImageDirectory, pid: int) -> None:
    """Give restored threads, which do not run yet, what the image says.

    What this host does not have is warned of: a container that runs elsewhere on its
    processors is better than one that is lost.

    Args:
        pid: of the first process.

    Raises:
        ImageError: the image is not readable.
    """
    if NAME not in images.names():
        return
    wanted = _read(images)
    for process in procfs.tree(pid):
        for thread in _threads(process):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                inner = _inner(process, thread)
                if (each := wanted.get(str(inner))) is not None:
                    _set(thread, inner, each)


def _threads(pid: int) -> Sequence[int]:
    """Return the threads of a process, none where it has ended."""
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return ()


def _inner(pid: int, thread: int) -> int:
    """Return a thread's number inside the container."""
    for line in procfs.read(f"/proc/{pid}/task/{thread}/status").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return thread


def _unusual(thread: int, usual: set[int]) -> dict[str, Any]:
    """Return what is particular to a thread."""
    found: dict[str, Any] = {}
    cpus = os.sched_getaffinity(thread)
    if not usual <= cpus:
        found["cpus"] = sorted(cpus)
    priority = syscalls.ioprio_get(_WHO_PROCESS, thread)
    if priority >> _IO_CLASS_SHIFT and priority != _by_nice(thread):
        found["io"] = priority
    slack = int(procfs.read(f"/proc/{thread}/timerslack_ns"))
    if slack not in (0, _USUAL_SLACK_NS):  # 0: of a real-time thread, which has none
        found["slack_ns"] = slack
    return found


def _by_nice(thread: int) -> int:
    """Return the I/O priority of a thread that has set none, see ioprio_set(2)."""
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    return _BEST_EFFORT << _IO_CLASS_SHIFT | (nice + 20) // 5


def _cpus_of(paths: Mapping[str, str]) -> set[int]:
    """Return the processors the container may use at all."""
    for key, directory in paths.items():
        names = ("cpuset.effective_cpus", "cpuset.cpus.effective")
        if "cpuset" in key.split(",") or not key:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    return set(_numbers(procfs.read(f"{directory}/{name}")))
    return set(_numbers(procfs.read(_ONLINE)))


def _numbers(text: str) -> Iterator[int]:
    """Yield the numbers of a list such as 0-3,8."""
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            yield from range(int(first), int(last or first) + 1)


def _read(images: ImageDirectory) -> dict[str, dict[str, Any]]:
    """Return the image, every value checked: it may come from another host."""
    try:
        data: dict[str, dict[str, Any]] = json.loads(images.read(NAME))
        numbers = [
            number
            for each in data.values()
            for number in (*each.get("cpus", ()), each.get("io", 0), each.get("slack_ns", 0))
        ]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ImageError(f"{NAME} is damaged: {error}") from None
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ImageError(f"{NAME} is damaged: it has a value that is no number")
    return data


def _set(thread: int, inner: int, wanted: Mapping[str, Any]) -> None:
    """Give one thread what it had."""
    problems = []
    if "cpus" in wanted:
        try:
            os.sched_setaffinity(thread, wanted["cpus"])
        except (OSError, ValueError):
            problems.append(f"keep to the CPUs {','.join(map(str, wanted['cpus']))}")
    if "io" in wanted:
        try:
            syscalls.ioprio_set(_WHO_PROCESS, thread, wanted["io"])
        except KernelError:
            problems.append("have its I/O priority")
    if "slack_ns" in wanted:
        try:
            with open(f"/proc/{thread}/timerslack_ns", "w", encoding="ascii") as file:
                file.write(str(wanted["slack_ns"]))
        except OSError:
            problems.append("have its timer slack")
    for problem in problems:
        emit(Log(level="warning", message=f"thread {inner} of the container cannot {problem} here"))
