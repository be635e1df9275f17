"""Signals as a process has them at birth.

Lives here: undoing what Python, and the caller, ignores or blocks: SIGPIPE and
SIGXFSZ are Python's, SIGHUP is nohup's, 32 and 33 are left ignored by glibc's
posix_spawn. Ignored and blocked signals pass through execve, see signal(7).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

from migrate import syscalls
from migrate.errors import KernelError

_LAST_SIGNAL = 64


def reset_signals() -> None:
    """Ignore, block and catch nothing."""
    for number in range(1, _LAST_SIGNAL + 1):
        try:
            syscalls.reset_signal(number)
        except KernelError:  # SIGKILL and SIGSTOP are never other than they are
            pass
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
