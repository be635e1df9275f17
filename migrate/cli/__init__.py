"""The command line: one table of options, one module a command, the only place that prints.

Lives here: parsing, help, what each command does with the rooms below, and the words
people and engines read. Must not live here: anything another room could need.
Nothing imports it but the installed command.
"""

from __future__ import annotations


def main() -> int:
    """Run the command of `sys.argv` and return its exit status."""
    from migrate.cli import program

    return program.main()
