"""The command line as the engines write it, read by the table in `options`.

Lives here: the rules, which are those of Go's `flag` and of runc. Must not live here:
which options there are. Imported by `program`.

- One dash or two, `--name value` or `--name=value`; one letter or more, no bundles (`-it`).
- A flag takes a value only after `=`: 1, t, true, 0, f, false.
- An option given twice: the last one counts, or both where it is a list; no commas.
- Options end at `--`, and for `exec` and `ps` at the first argument; elsewhere they may
  stand anywhere.
"""

from __future__ import annotations

from migrate.cli.command import DURATION, FLAG, LIST, NUMBER, Call
from migrate.cli.options import COMMANDS, GLOBALS
from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrate.cli.command import Command, Option, Value

TRUE = ("1", "t", "T", "true", "True", "TRUE")
FALSE = ("0", "f", "F", "false", "False", "FALSE")
SECONDS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class HelpWanted(Exception):
    """Help, or the version, was asked for.

    Attributes:
        command: name of the command it is about, "" for the program.
        version: the version was.
    """

    def __init__(self, command: str = "", *, version: bool = False) -> None:
        super().__init__(command)
        self.command = command
        self.version = version


def parse(words: Sequence[str]) -> Call:
    """Return what a command line, without the program's name, asks for.

    Raises:
        HelpWanted: `--help`, `-h`, `help`, `--version`, or nothing at all.
        UsageError: it is not understood; the hint names the help that explains it.
    """
    globals_, rest = parse_globals(words)
    if globals_["version"]:
        raise HelpWanted(version=True)
    if globals_["help"] or not rest or rest[0] in ("help", "h"):
        raise HelpWanted(rest[1] if len(rest) > 1 and rest[0] in ("help", "h") else "")
    name, *rest = rest
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f'there is no command "{name}"', _nearest(name, COMMANDS))
    options, arguments = _split(rest, command.options, name, command=command)
    _count(name, command, arguments)
    return Call(name, options, globals_, arguments)


def parse_globals(words: Sequence[str]) -> tuple[dict[str, Value], list[str]]:
    """Return the options before the command, and the rest from the command on."""
    return _split(words, GLOBALS, "")


def _split(
    words: Sequence[str],
    options: Sequence[Option],
    name: str,
    *,
    command: Command | None = None,
) -> tuple[dict[str, Value], list[str]]:
    """Return the options' values, and the arguments."""
    table = {spelling: option for option in options for spelling in option.names}
    values: dict[str, Value] = {option.names[0]: option.default for option in options}
    arguments: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            arguments += words[at:]
            break
        spelling, equals, value = word.lstrip("-").partition("=")
        option = table.get(spelling) if _is_dashed(word) else None
        if option is None:
            if _is_dashed(word) and spelling in ("help", "h"):
                raise HelpWanted(name)
            if _is_dashed(word):
                raise UsageError(
                    f"flag provided but not defined: -{spelling}", _see(name, spelling, table)
                )
            arguments.append(word)
            if command is None or command.stops:
                arguments += words[at:]
                break
            continue
        if not equals and option.kind != FLAG:
            if at == len(words):
                raise UsageError(f"flag needs an argument: -{spelling}", _see(name))
            value = words[at]
            at += 1
        _store(values, option, value if equals or option.kind != FLAG else "true", name)
    return values, arguments


def _is_dashed(word: str) -> bool:
    """Tell whether a word looks like an option; a single dash is an argument."""
    return word[:1] == "-" and len(word) > 1 and word[:3] != "---"


def _store(values: dict[str, Value], option: Option, value: str, name: str) -> None:
    """Put one occurrence of an option among the values."""
    key = option.names[0]
    if option.kind == LIST:
        before = values[key]
        values[key] = [*before, value] if isinstance(before, list) else [value]
        return
    try:
        values[key] = _converted(option.kind, value)
    except ValueError:
        raise UsageError(
            f'invalid value "{value}" for flag -{key}: a {option.kind} is expected', _see(name)
        ) from None


def _converted(kind: str, value: str) -> Value:
    """Return a value of the kind, or raise ValueError."""
    if kind == FLAG:
        if value in TRUE:
            return True
        if value in FALSE:
            return False
        raise ValueError(value)
    if kind == NUMBER:
        return int(value, 0)
    if kind == DURATION:
        return seconds(value)
    return value


def seconds(text: str) -> float:
    """Return a Go duration such as 1m30s, 500ms or 0, in seconds.

    Raises:
        ValueError: it is none.
    """
    sign = -1.0 if text[:1] == "-" else 1.0
    left = text.lstrip("+-") if text[1:2] not in ("+", "-") else ""
    if left == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(left) or not left:
        start = at
        while at < len(left) and left[at] in "0123456789.":
            at += 1
        number, unit_at = left[start:at], at
        while at < len(left) and left[at] not in "0123456789.":
            at += 1
        unit = SECONDS.get(left[unit_at:at])
        if unit is None:
            raise ValueError(text)
        total += float(number) * unit
    return sign * total


def _count(name: str, command: Command, arguments: Sequence[str]) -> None:
    """Refuse too few or too many arguments."""
    given = len(arguments)
    if command.least <= given and (command.most < 0 or given <= command.most):
        return
    if command.least == command.most:
        wanted = f"exactly {command.least}"
    elif given < command.least:
        wanted = f"at least {command.least}"
    else:
        wanted = f"at most {command.most}"
    plural = "" if wanted.endswith(" 1") else "s"
    raise UsageError(f'"{name}" requires {wanted} argument{plural}, not {given}', _see(name))


def _see(name: str, unknown: str = "", table: dict[str, Option] | None = None) -> str:
    """Return the hint that leads to the help, with the nearest name to an unknown one."""
    place = f"`migrate {name} --help`" if name else "`migrate --help`"
    near = _near(unknown, list(table)) if table else ""
    return f"Did you mean --{near}? See {place}." if near else f"See {place}."


def _nearest(unknown: str, names: dict[str, Command]) -> str:
    """Return the hint for an unknown command."""
    near = _near(unknown, list(names))
    return f"Did you mean `migrate {near}`?" if near else "See `migrate --help`."


def _near(unknown: str, names: list[str]) -> str:
    """Return the name most like the unknown one, or ""."""
    import difflib

    return next(iter(difflib.get_close_matches(unknown, names, 1)), "")
