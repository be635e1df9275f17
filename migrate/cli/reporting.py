"""How an error reaches people and engines: one line on stderr, one in the log.

Lives here: the formats of the log, which are those of runc's logger, because engines read
them: podman takes the whole file as one JSON object, containerd the last line whose level
is `error`. Must not live here: deciding what is an error. Imported by `program`.
"""

from __future__ import annotations

import os
import sys
import time

from migrate.errors import MigrateError, UsageError
from migrate.runtime import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from migrate.cli.command import Value

FORMATS = ("text", "json")


class Reporter:
    """Where errors go; before `configure`, to stderr alone.

    Attributes:
        debug: whether an unexpected error shows where it comes from.
    """

    def __init__(self) -> None:
        self.debug = False
        self._log = -1
        self._format = "text"

    def configure(self, globals: Mapping[str, Value]) -> None:  # noqa: A002 - what they are
        """Take over --debug, --log and --log-format.

        Raises:
            UsageError: the format is none, or the log cannot be opened.
        """
        self.debug = globals["debug"] is True
        path, wanted = str(globals["log"] or ""), str(globals["log-format"])
        if path:
            try:
                self._log = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
                )
            except OSError as error:
                raise UsageError(
                    f"log {path} cannot be opened: {str(error.strerror).lower()}"
                ) from None
        if wanted not in FORMATS:
            raise UsageError(f"invalid log-format: {wanted}", "Write text or json.")
        self._format = wanted

    def error(self, error: MigrateError, prefix: str = "") -> int:
        """Say what went wrong; return the exit status."""
        self._say(prefix + error.message, error.hint)
        if self.debug:
            self._show_trace(error)
        return error.exit_status

    def unexpected(self, error: Exception, prefix: str = "") -> int:
        """Say that something went wrong which no room foresaw; return the exit status."""
        if isinstance(error, OSError) and error.strerror:
            message = error.strerror.lower()
            if error.filename is not None:
                message = f"{os.fsdecode(error.filename)}: {message}"
        else:
            message = f"unexpected {type(error).__name__}: {error}"
        self._say(prefix + message, "" if self.debug else "Add --debug to see where.")
        if self.debug:
            self._show_trace(error)
        return 1

    def _say(self, message: str, hint: str) -> None:
        """Write one line to stderr, and one to the log if there is one."""
        line = " ".join(message.split())
        if self._log >= 0:
            _write(self._log, self._formatted(line, hint))
        sys.stdout.flush()
        _write(2, f"migrate: {readable(line)}{f' ({readable(hint)})' if hint else ''}\n")

    def _formatted(self, message: str, hint: str) -> str:
        """Return the log's line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._format == "json":
            entry = {"level": "error", "msg": message, "time": moment}
            return jsontext.dumps(entry | ({"hint": hint} if hint else {})) + "\n"
        quoted = jsontext.dumps(message)
        return f'time="{moment}" level=error msg={quoted}\n'

    def _show_trace(self, error: BaseException) -> None:
        """Print the stack, to stderr only: the log stays one line."""
        import traceback

        _write(2, "".join(traceback.format_exception(error)))


def readable(text: str) -> str:
    """Return a line with everything but characters to read spelled out.

    Names and last words of a container's processes come along in messages, and on a
    terminal some sequences of characters are commands.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _write(fd: int, text: str) -> None:
    """Write a line in one piece; nobody is left to tell if that fails."""
    try:
        os.write(fd, text.encode(errors="backslashreplace"))
    except OSError:
        return
