"""From the words of a command line to an exit status.

Lives here: finding and running the command's module, and the last stop of every error.
Must not live here: what any command does. Imported by `migrate.cli.main`.

Engines start this program several times for each container, so nothing is imported that
the one command does not need, and the end is `os._exit`: the interpreter's own tidying up
takes as long as the work of a small command.
"""

from __future__ import annotations

import os
import sys

from migrate.cli.parse import HelpWanted, parse, parse_globals
from migrate.cli.reporting import Reporter
from migrate.errors import MigrateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from migrate.cli.command import Call

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
# Set by the shell's completion, to `bash_source`, `bash_complete` and so on.
COMPLETION_VARIABLE = "_MIGRATE_COMPLETE"
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main() -> NoReturn:
    """Run the command line of `sys.argv`, and end the process with its exit status."""
    _open_standard_streams()
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or PIPE_CLOSED
    os._exit(status)


def _open_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are there, and that what we print is UTF-8.

    Where a caller closed one, the next file opened would take its number, and become the
    container's standard output.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            fd = ("stdin", "stdout", "stderr").index(name)
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", closefd=False))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def run(words: Sequence[str]) -> int:
    """Run a command line and return its exit status; no exception leaves."""
    reporter = Reporter()
    prefix = ""
    try:
        if COMPLETION_VARIABLE in os.environ:
            from migrate.cli.help import complete

            return complete(os.environ[COMPLETION_VARIABLE], COMPLETION_VARIABLE)
        try:
            call = parse(words)
        except HelpWanted as wanted:
            from migrate.cli.help import show

            return show(wanted)
        except UsageError:
            # The error belongs in the log as well, where --log itself was understood.
            reporter.configure(parse_globals(words)[0])
            raise
        reporter.configure(call.globals)
        prefix = _prepare(call)
        return _run(call)
    except MigrateError as error:
        return reporter.error(error, prefix)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError as error:
        return _pipe_closed(reporter, error, prefix)
    except Exception as error:  # noqa: BLE001 - the last stop: people get a line, not a stack
        return reporter.unexpected(error, prefix)


def _prepare(call: Call) -> str:
    """Complete the global options; return what this command's errors begin with."""
    from migrate.cli.options import COMMANDS

    if not call.globals["root"]:
        root = "/run/migrate"
        if os.geteuid() != 0 and os.environ.get("XDG_RUNTIME_DIR"):
            root = f"{os.environ['XDG_RUNTIME_DIR']}/migrate"
        call.globals["root"] = root
    if call.globals["rootless"] not in ("true", "false", "auto"):
        raise UsageError(f"invalid value for --rootless: {call.globals['rootless']}")
    return COMMANDS[call.command].in_messages


def _run(call: Call) -> int:
    """Load the command's module, and nothing else's, and run it."""
    name = f"migrate.cli.{call.command}_cmd"
    module = __import__(name, fromlist=["run"])
    status: int = module.run(call)
    sys.stdout.flush()
    return status


def _pipe_closed(reporter: Reporter, error: BrokenPipeError, prefix: str) -> int:
    """End quietly where nobody reads our output any more; else it is an error.

    The descriptor is asked, not the stream: what is longer than its buffer is lost with the
    write that failed, and a flush then finds nothing to fail at.
    """
    import select

    poll = select.poll()
    poll.register(1, 0)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        # Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    return reporter.unexpected(error, prefix)
