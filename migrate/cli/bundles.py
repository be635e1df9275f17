"""What `create`, `run` and `restore` share: the bundle, and the options about it.

Lives here: the way from a call to `CreateOptions`. Imported by those commands' modules.
"""

from __future__ import annotations

import os

from migrate.errors import UsageError
from migrate.runtime.launch import CreateOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from migrate.cli.command import Call


def bundle_of(call: Call) -> str:
    """Return the bundle's directory, absolute."""
    bundle = os.path.abspath(call.text("bundle") or ".")
    try:
        bundle.encode()
    except UnicodeEncodeError:
        raise UsageError(f"bundle {bundle!a}: its path is not UTF-8", "Rename it.") from None
    if not os.path.isdir(bundle):
        raise UsageError(f"bundle {bundle}: no such file or directory", "Give --bundle.")
    return bundle


def wants_systemd(call: Call) -> bool:
    """Tell whether a new container's control group is to be a unit of systemd's.

    Raises:
        UsageError: --cgroup-manager names neither driver.
    """
    manager = call.globals["cgroup-manager"]
    if manager not in ("", "cgroupfs", "systemd"):
        raise UsageError(f"unknown cgroup manager {manager}", "Write cgroupfs or systemd.")
    return bool(call.globals["systemd-cgroup"]) or manager == "systemd"


def create_options(call: Call, take_console: Callable[[int], None] | None = None) -> CreateOptions:
    """Return the options of a call that makes a container.

    Args:
        take_console: called with the terminal's master, where the caller relays it.
    """
    options = CreateOptions(
        console_socket=call.text("console-socket"),
        take_console=take_console,
        no_new_keyring=call.has("no-new-keyring"),
        no_pivot=call.has("no-pivot"),
        pid_file=call.text("pid-file"),
        pidfd_socket=call.text("pidfd-socket"),
        preserve_fds=call.number("preserve-fds"),
        explain=_say_step if call.globals["debug"] is True else None,
    )
    options.warn = say_warning
    options.systemd = wants_systemd(call)
    return options


def say_warning(problem: str) -> None:
    """Write what is carried out otherwise than asked for to stderr."""
    os.write(2, f"migrate: warning: {problem}\n".encode(errors="backslashreplace"))


def _say_step(step: str) -> None:
    """Write a step of the plan to stderr, for --debug."""
    os.write(2, f"plan: {step}\n".encode(errors="backslashreplace"))
