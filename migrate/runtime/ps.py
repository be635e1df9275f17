"""The processes of a container, as the host's ps(1) shows them.

Lives here: running ps and keeping the container's lines. Must not live here: layout of
its own. May be imported by every room above `runtime`.
"""

from __future__ import annotations

import subprocess

from migrate.errors import MigrateError
from migrate.runtime import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrate.runtime.state import Record

DEFAULT_OPTIONS = ("-ef",)


def table(record: Record, options: Sequence[str]) -> str:
    """Return ps's heading and its lines about the container's processes.

    Args:
        options: for ps; they must leave the column PID in.

    Raises:
        MigrateError: there is no ps, it fails, or the column is not there.
    """
    pids = {str(pid) for pid in cgroup.procs(record["cgroup"])}
    try:
        done = subprocess.run(
            ["ps", *(options or DEFAULT_OPTIONS)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise MigrateError(
            f"ps cannot be run: {str(error.strerror).lower()}",
            "Install procps, or use `migrate ps --format json`.",
        ) from None
    lines = done.stdout.decode(errors="replace").rstrip("\n").split("\n")
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise MigrateError(f"ps failed with status {done.returncode}: {reason}")
    columns = lines[0].split()
    if "PID" not in columns:
        raise MigrateError(
            "couldn't find PID field in ps output", "Leave the column PID in, as with -o pid,comm."
        )
    at = columns.index("PID")
    kept = [line for line in lines[1:] if at < len(line.split()) and line.split()[at] in pids]
    return "\n".join((lines[0], *kept))
