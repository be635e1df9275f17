"""Being told to end in the middle of making something.

Lives here: turning the signals that end a command into an exception, so that what
is half made is taken back. Imported by `launch`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

from migrate.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

ENDING_SIGNALS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)


class Interrupted(StageError):
    """A signal asked the command to end; what it had made is gone."""


def raise_on_signals() -> dict[int, Any]:
    """Let the signals that end a command raise instead, but those that are ignored.

    Returns:
        For `restore`; empty in a thread, where signals do not arrive.
    """
    before = {}
    try:
        for number in ENDING_SIGNALS:
            action = _signal.getsignal(number)
            if action != _signal.SIG_IGN:
                before[number] = action
                _signal.signal(number, _raise)
    except ValueError:  # not the main thread
        return {}
    return before


def restore(before: dict[int, Any]) -> None:
    """Put back what `raise_on_signals` replaced."""
    for number, action in before.items():
        _signal.signal(number, action)


def _raise(number: int, _frame: object) -> NoReturn:
    # Once: a second signal must not interrupt the taking back.
    for each in ENDING_SIGNALS:
        _signal.signal(each, _signal.SIG_IGN)
    raise Interrupted(f"interrupted by signal {number}")
