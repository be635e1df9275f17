"""What `checkpoint` and `restore` share: from a call to what is asked of CRIU.

Lives here: the options both commands have. Imported by those commands' modules.
"""

from __future__ import annotations

import os

from migrate.checkpoint.options import CGROUP_MODES, NETWORK_LOCKS, Request
from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.cli.command import Call

_DEFAULT_IMAGES = "checkpoint"
# What comes with the strategies that need it; accepting it silently would lose memory.
_LATER = ("lazy-pages", "pre-dump", "page-server", "parent-path")


def request_of(call: Call, **more: Any) -> Request:
    """Return what the call asks of CRIU; what it does not say follows from the container.

    Raises:
        UsageError: a value CRIU does not know, or an option that is not there yet.
    """
    for name in _LATER:
        if call.options.get(name):
            raise UsageError(f"--{name} is not supported", "Leave it out.")
    mode = call.text("manage-cgroups-mode")
    lock = call.text("network-lock")
    _check("manage-cgroups-mode", mode, CGROUP_MODES)
    _check("network-lock", lock, NETWORK_LOCKS)
    spaces = call.texts("empty-ns")
    for each in spaces:
        _check("empty-ns", each, ("network",))
    asked: dict[str, Any] = {
        "tcp_established": call.has("tcp-established") or None,
        "ext_unix_sk": call.has("ext-unix-sk") or None,
        "shell_job": call.has("shell-job"),
        "file_locks": call.has("file-locks") or None,
        "link_remap": call.has("link-remap") or None,
        "cgroup_mode": mode or None,
        "network": "empty" if spaces else None,
        "network_lock": lock or None,
        "auto_dedup": call.has("auto-dedup"),
    }
    return Request(**asked, **more)


def image_path(call: Call) -> str:
    """Return the directory of the images, absolute."""
    return os.path.abspath(call.text("image-path") or _DEFAULT_IMAGES)


def work_path(call: Call) -> str | None:
    """Return the directory of CRIU's log, None for that of the images."""
    path = call.text("work-path")
    if not path:
        return None
    os.makedirs(path, 0o700, exist_ok=True)
    return os.path.abspath(path)


def _check(name: str, value: str, known: object) -> None:
    """Refuse a value that is given and not one of the known ones."""
    names = [str(each) for each in known]  # type: ignore[attr-defined]
    if value and value not in names:
        raise UsageError(f"--{name} {value} is unknown", f"Write {', '.join(names)}.")
