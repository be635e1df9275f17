"""Signals to a container.

Lives here: what a signal is called, and sending it to the first process or to all. Must
not live here: ending a container for good (`delete`). May be imported by every room above
`runtime`.
"""

from __future__ import annotations

import os

from migrate.errors import KernelError, UsageError, WrongStatus
from migrate.runtime import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from migrate.runtime.state import Record
else:
    import _signal  # `signal` makes an enumeration of it, which takes 4 ms

SIGKILL = 9


def signal_number(text: str) -> int:
    """Return the number of a signal given as number or name, with or without SIG.

    Zero is a signal that only asks whether the process is there, see kill(2).

    Raises:
        UsageError: there is no such signal here; runc's words.
    """
    number = -1
    if _is_small(text):
        number = int(text)
    elif text.isascii():
        name = text.upper().removeprefix("SIG")
        base, plus, offset = name.partition("+")
        if base.isalnum() and (not plus or _is_small(offset)):
            number = int(getattr(_signal, f"SIG{base}", -1))
            if plus:
                number = number + int(offset) if base == "RTMIN" and number > 0 else -1
    if not 0 <= number < _signal.NSIG:
        raise UsageError(
            f'unknown signal "{text}"', "Give a name such as TERM, or its number (`kill -l`)."
        )
    return number


def _is_small(text: str) -> bool:
    """Tell whether a text is a number of few digits: int() refuses thousands of them."""
    return text.isascii() and text.isdigit() and len(text) <= 4


def kill(record: Record, number: int, *, everyone: bool = False) -> None:
    """Send a signal to a container's first process, or to all of its processes.

    Raises:
        WrongStatus: the container has stopped.
        KernelError: the kernel refuses the signal.
    """
    if everyone:
        _kill_all(record, number)
        return
    pidfd = state.open_pidfd(record)
    try:
        if pidfd is None or state.status(record) == "stopped":
            raise WrongStatus("container not running")
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise WrongStatus("container not running") from None
    except OSError as error:
        raise KernelError("pidfd_send_signal", str(number), error.errno or 0) from None
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if number == SIGKILL:
        _let_die(record)


def _let_die(record: Record) -> None:
    """Thaw a paused container that got SIGKILL: on v1, frozen processes do not die."""
    from migrate.runtime.cgroup.freezer import frozen_state, thaw

    if frozen_state(record["cgroup"]) != "THAWED":
        thaw(record["cgroup"])


def _kill_all(record: Record, number: int) -> None:
    """Send a signal to every process of a container, none left out that is being forked."""
    from migrate.errors import CgroupError
    from migrate.runtime import cgroup
    from migrate.runtime.cgroup.tree import refuse_strangers

    paths = record["cgroup"]
    was_paused = cgroup.frozen_state(paths) != "THAWED"
    pids = cgroup.procs(paths)
    if not pids:
        return
    refuse_strangers(paths, pids)
    try:
        cgroup.freeze(paths, 1.0)
    except CgroupError:
        was_paused = False  # one that will not stop gets the signal all the same
    for pid in cgroup.procs(paths):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    if number == SIGKILL or not was_paused:
        cgroup.thaw(paths)
