"""What `checkpoint` and `restore` share: where images are, and what is asked of CRIU.

Lives here: the way from a call to a `Request`. Imported by those commands' modules.
"""

from __future__ import annotations

import os
import sys

from migrate.cli.reporting import readable
from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from migrate.checkpoint.options import Request
    from migrate.cli.command import Call
    from migrate.events import Event

DEFAULT_IMAGES = "checkpoint"
NAMESPACES = ("network",)


def image_path(call: Call) -> str:
    """Return the directory of the images, absolute."""
    return os.path.abspath(call.text("image-path") or DEFAULT_IMAGES)


def work_path(call: Call) -> str | None:
    """Return the directory of CRIU's log, which is made; None for that of the images."""
    if not call.text("work-path"):
        return None
    path = os.path.abspath(call.text("work-path"))
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def refuse_unsupported(call: Call, unsupported: Mapping[str, str]) -> None:
    """Refuse options that engines know and this program does not carry out."""
    for name, way_out in unsupported.items():
        if call.options[name] not in (None, "", False, -1):
            raise UsageError(f"--{name} is not supported", way_out)


def request(call: Call) -> Request:
    """Return what the options ask; what is not asked follows from the container."""
    from migrate.checkpoint.options import CGROUP_MODES, NETWORK_LOCKS, Request

    mode = _one_of(call, "manage-cgroups-mode", tuple(CGROUP_MODES))
    lock = _one_of(call, "network-lock", NETWORK_LOCKS)
    for name in call.texts("empty-ns"):
        if name not in NAMESPACES:
            raise UsageError(
                f"invalid value for --empty-ns: {name}", f"Write {' or '.join(NAMESPACES)}."
            )
    asked = call.options
    return Request(
        leave_running=asked.get("leave-running") is True,
        tcp_established=call.has("tcp-established") or None,
        tcp_close=asked.get("tcp-close") is True,
        tcp_skip_in_flight=asked.get("tcp-skip-in-flight") is True,
        ext_unix_sk=call.has("ext-unix-sk") or None,
        shell_job=call.has("shell-job"),
        file_locks=call.has("file-locks") or None,
        link_remap=call.has("link-remap") or None,
        cgroup_mode=mode or None,  # type: ignore[arg-type]  # one of the table's words
        network="empty" if call.texts("empty-ns") else None,
        network_lock=lock or None,  # type: ignore[arg-type]  # likewise
        auto_dedup=call.has("auto-dedup"),
        lazy_pages=call.has("lazy-pages"),
        lsm_profile=str(asked.get("lsm-profile") or ""),
        lsm_mount_context=str(asked.get("lsm-mount-context") or ""),
    )


def warn(event: Event) -> None:
    """Print what a check found that stops nothing."""
    from migrate.events import Finding

    if isinstance(event, Finding) and event.verdict == "warn":
        hint = f" ({event.hint})" if event.hint else ""
        sys.stderr.write(f"migrate: warning: {readable(event.message + hint)}\n")


def _one_of(call: Call, option: str, words: tuple[str, ...]) -> str:
    """Return an option's value, one of the words, or ""."""
    value = call.text(option)
    if value and value not in words:
        raise UsageError(f"invalid value for --{option}: {value}", f"Write {', '.join(words)}.")
    return value
