"""`migrate spec`: a config.json to start from."""

from __future__ import annotations

import os

from migrate.errors import UsageError
from migrate.runtime import jsontext
from migrate.runtime.spec import default_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.cli.command import Call

NAME = "config.json"


def run(call: Call) -> int:
    """Write it, laid out as runc does; one that is there is never replaced."""
    spec = default_spec(call.has("rootless"), os.getuid(), os.getgid())
    path = os.path.join(call.text("bundle") or ".", NAME)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise UsageError(f"File {NAME} exists. Remove it first") from None
    with open(fd, "w", encoding="utf-8") as file:
        file.write(jsontext.dumps(spec, indent="\t"))
    return 0
