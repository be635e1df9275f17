"""What an option and a command are, and what a parsed call of one is.

Lives here: three plain classes. They are built for every command at each start, so they
are as small as they can be. Imported by the modules of this room only.
"""

from __future__ import annotations

from migrate.runtime.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Value = None | bool | int | float | str | list[str]

FLAG = "flag"
TEXT = "text"
NUMBER = "number"
LIST = "list"
DURATION = "duration"
"""Kinds of options: present or not; a text; a whole number; a text each time it is
given; a duration as Go writes it, such as 5s or 1m30s, kept in seconds."""


class Option:
    """One option of a command.

    Args:
        names: the long name first, then others, without dashes.
        help: what `--help` says.
        kind: FLAG, TEXT, NUMBER, LIST or DURATION.
        default: value where it is not given.
        value: what `--help` calls its value.
    """

    __slots__ = ("default", "help", "kind", "names", "value")

    def __init__(
        self,
        names: str,
        help: str,  # noqa: A002 - the field's word, read as a label in the table
        kind: str = FLAG,
        default: Value = None,
        value: str = "",
    ) -> None:
        self.names = names.split()
        self.help = help
        self.kind = kind
        self.default = default
        self.value = value


class Command:
    """One command.

    Args:
        summary: its line in the list of commands.
        options: in the order `--help` shows them.
        arguments: its positional arguments as usage shows them.
        least: how many must be given.
        most: how many may be given, -1 for any number.
        stops: options end at the first positional argument, as for `exec`; without it they
            may stand anywhere.
        details: further paragraphs of `--help`.
        in_messages: what an error is prefixed with, as runc does for some commands.
    """

    __slots__ = (
        "arguments",
        "details",
        "in_messages",
        "least",
        "most",
        "options",
        "stops",
        "summary",
    )

    def __init__(
        self,
        summary: str,
        options: Sequence[Option] = (),
        *,
        arguments: str = "ID",
        least: int = 1,
        most: int = 1,
        stops: bool = False,
        details: str = "",
        in_messages: str = "",
    ) -> None:
        self.summary = summary
        self.options = options
        self.arguments = arguments
        self.least = least
        self.most = most
        self.stops = stops
        self.details = details
        self.in_messages = in_messages


class Call:
    """A command line that was understood.

    Attributes:
        command: its name.
        options: the command's, by long name; every one of the table is there.
        globals: those before the command, likewise.
        arguments: the positional ones.
    """

    __slots__ = ("arguments", "command", "globals", "options")

    def __init__(
        self,
        command: str,
        options: Mapping[str, Value],
        globals: dict[str, Value],  # noqa: A002 - what they are
        arguments: Sequence[str],
    ) -> None:
        self.command = command
        self.options = options
        self.globals = globals
        self.arguments = arguments

    @property
    def id(self) -> str:
        """The container's id: every command that has one takes it first."""
        return self.arguments[0]

    @property
    def store(self) -> Store:
        """The containers under `--root`."""
        return Store(str(self.globals["root"]))

    def has(self, name: str) -> bool:
        """Tell whether a flag is set."""
        return self.options[name] is True

    def text(self, name: str) -> str:
        """Return a text, "" where it was not given."""
        value = self.options[name]
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """Return all values of an option that may be repeated."""
        value = self.options[name]
        return value if isinstance(value, list) else []

    def number(self, name: str) -> int:
        """Return a whole number, 0 where it was not given and has no default."""
        value = self.options[name]
        return value if isinstance(value, int) else 0

    def seconds(self, name: str) -> float:
        """Return a duration."""
        value = self.options[name]
        return value if isinstance(value, float) else 0.0
