"""`migrate drain`: move every container of this host to others.

Lives here: from options to an order, and the words of each migration's own command
line. Must not live here: how it is shown (`draining`). Imported by `program` only.
"""

from __future__ import annotations

import shutil
import sys

from migrate.cli.command import DURATION, FLAG, LIST, Call
from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.events import Departed
    from migrate.live.reach import Way
    from migrate.live.volumes.mapping import Wanted

# What `drain` says itself to each `live`.
_OWN = ("to", "bridge", "volume", "map", "json", "transport", "control-path")
_STATUSES = {"moved": 0, "undecided": 4, "lost": 5}


def run(call: Call) -> int:
    """Move them; return the exit status."""
    from dataclasses import replace

    from migrate.cli.draining import showing_many
    from migrate.cli.live_cmd import way
    from migrate.live.drain import Order, drain

    if call.number("parallel") < 1:
        raise UsageError(
            f"invalid value for --parallel: {call.number('parallel')}", "Write 1 or more."
        )
    first = way(_with_transport(call), "")
    order = Order(
        store=call.store,
        ways=[replace(first, target=target) for target in _targets(call)],
        criu=str(call.globals["criu"] or "") or None,
        wanted=_wanted(call),
        parallel=call.number("parallel"),
        command=_program(call),
        arguments=lambda name, there, file: _words(call, name, there, file),
    )
    with showing_many(json=call.has("json")):
        return status_of(drain(order))


def status_of(departed: list[Departed]) -> int:
    """Return the exit status: that of the worst."""
    return max((_STATUSES.get(each.result, 1) for each in departed), default=0)


def _with_transport(call: Call) -> Call:
    """Return the call with a transport chosen where none was given."""
    if call.text("transport"):
        return call
    chosen = "openssh" if shutil.which("ssh") else "paramiko"
    return Call(call.command, {**call.options, "transport": chosen}, call.globals, call.arguments)


def _targets(call: Call) -> list[str]:
    """Return the hosts of --to.

    Raises:
        UsageError: there is none, one is not written as a host, or one comes twice.
    """
    from migrate.transport.ssh import Target

    targets = [each for each in call.text("to").split(",") if each]
    if not targets:
        raise UsageError(
            "drain needs hosts to move to", "Write `migrate drain --to HOST[,HOST...]`."
        )
    for at, each in enumerate(targets):
        Target.parse(each)
        if each in targets[:at]:
            raise UsageError(f"--to names {each} twice", "Name each host once.")
    return targets


def _program(call: Call) -> list[str]:
    """Return how this program was called, up to the options before the command."""
    own = len(sys.orig_argv) - len(sys.argv) + 1
    words = [sys.executable, *sys.orig_argv[1:own]]
    for name in ("root", "criu"):
        if call.globals[name]:
            words += [f"--{name}", str(call.globals[name])]
    return words


def _wanted(call: Call) -> Wanted:
    """Return what is called otherwise on the other hosts.

    Raises:
        UsageError: something of it is not acceptable, or cannot be of many containers.
    """
    from migrate.cli.live_cmd import bridges
    from migrate.live.volumes import mapping

    path = call.text("map")
    wanted = mapping.with_options(
        mapping.read(path) if path else mapping.Wanted(),
        bundle=None,
        volumes=call.texts("volume"),
        bridges=bridges(call),
    )
    if wanted.bundle is not None:
        raise UsageError(f"{path}: $.bundle: is of one container", "Take it out.")
    return wanted


def _words(call: Call, name: str, there: Way, file: str) -> list[str]:
    """Return the words of one migration, the options that `live` has, too, handed on."""
    from migrate.cli.options import COMMANDS

    words = ["live", name, "--to", there.target, "--json", "--transport", there.transport]
    words += ["--map", file]
    if there.control_path:
        words += ["--control-path", there.control_path]
    for option in COMMANDS["live"].options:
        key = option.names[0]
        value = call.options.get(key, option.default)
        if key in _OWN or value == option.default:
            continue
        if option.kind == FLAG:
            words.append(f"--{key}={'true' if value else 'false'}")
        elif option.kind == LIST and isinstance(value, list):
            words += [word for each in value for word in (f"--{key}", each)]
        else:
            words += [f"--{key}", f"{value}s" if option.kind == DURATION else str(value)]
    return words
