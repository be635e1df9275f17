"""Help, the version and completion.

Lives here: the table of options shown by click, which is imported only for that. Must not
live here: options of its own. Imported by `program` once help is asked for.
"""

from __future__ import annotations

import sys

from migrate import __version__
from migrate.cli.command import DURATION, FLAG, LIST, NUMBER
from migrate.cli.options import COMMANDS, GLOBALS
from migrate.errors import UsageError
from migrate.runtime.features import OCI_VERSION_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from migrate.cli.command import Command, Option
    from migrate.cli.parse import HelpWanted

SUMMARY = "An OCI container runtime whose containers move between machines."


def show(wanted: HelpWanted) -> int:
    """Print what was asked for; return the exit status."""
    if wanted.version:
        # Engines read the version from the first line and the spec's from the one below.
        sys.stdout.write(f"migrate version {__version__}\nspec: {OCI_VERSION_MAX}\n")
        return 0
    if wanted.command and wanted.command not in COMMANDS:
        raise UsageError(f'there is no command "{wanted.command}"', "See `migrate --help`.")
    group = _group()
    context = group.make_context("migrate", [], resilient_parsing=True)
    if wanted.command:
        command = group.commands[wanted.command]
        context = command.make_context(wanted.command, [], parent=context, resilient_parsing=True)
        sys.stdout.write(command.get_help(context) + "\n")
    else:
        sys.stdout.write(group.get_help(context) + "\n")
    return 0


def complete(instruction: str, variable: str) -> int:
    """Answer a shell that asks for the script, or for words to complete."""
    from click.shell_completion import shell_complete

    return shell_complete(_group(), {}, "migrate", variable, instruction)


def _group() -> click.Group:
    """Return the whole table as click knows it."""
    import click

    group = click.Group("migrate", help=SUMMARY, params=_parameters(GLOBALS), add_help_option=False)
    for name, command in COMMANDS.items():
        group.add_command(_command(name, command))
    return group


def _command(name: str, command: Command) -> click.Command:
    """Return one command as click knows it."""
    import click

    text = command.summary[0].upper() + command.summary[1:] + "."
    parameters = _parameters(command.options)
    if command.arguments:
        arguments: click.Parameter = click.Argument(
            ["arguments"], nargs=-1, metavar=command.arguments
        )
        parameters.append(arguments)
    return click.Command(
        name,
        help=f"{text}\n\n{command.details}" if command.details else text,
        short_help=command.summary,
        params=parameters,
    )


def _parameters(options: Sequence[Option]) -> list[click.Parameter]:
    """Return options as click knows them."""
    import click

    kinds = {NUMBER: click.INT}
    return [
        click.Option(
            [f"{'-' if len(name) == 1 else '--'}{name}" for name in option.names],
            help=option.help,
            is_flag=option.kind == FLAG,
            multiple=option.kind == LIST,
            type=None if option.kind == FLAG else kinds.get(option.kind, click.STRING),
            metavar=None if option.kind == FLAG else option.value,
            default=None if option.kind == DURATION else option.default,
        )
        for option in options
    ]
