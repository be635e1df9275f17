"""`migrate live`: move a running container to another host.

Lives here: from options to an order. Imported by `program` only.
"""

from __future__ import annotations

from migrate.cli.command import Call
from migrate.errors import UsageError

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.live.reach import Way
    from migrate.live.strategy import Limits, Strategy
    from migrate.live.volumes.mapping import Wanted


def run(call: Call) -> int:
    """Move it; return the exit status."""
    from migrate.cli.showing import showing
    from migrate.live.journal import default_folder
    from migrate.live.order import Order
    from migrate.live.source import migrate

    if not call.text("to"):
        raise UsageError(
            "live needs a host to move to", f"Write `migrate live {call.id} --to HOST`."
        )
    there = wanted(call)
    order = Order(
        container_id=call.id,
        store=call.store,
        way=way(call, call.text("to")),
        journals=default_folder(call.text("journal-dir") or None),
        bundle=there.bundle,
        criu=str(call.globals["criu"] or "") or None,
        bridges=there.bridges,
        wanted=there,
        strategy=strategy(call),
        limits=limits(call),
        files=_files(call),
    )
    with showing(json=call.has("json")):
        if call.has("dry-run"):
            from migrate.live.foretelling import foretell

            foretell(order)
        else:
            migrate(order)
    return 0


def _files(call: Call) -> dict[int, str]:
    """Return where standard output and error go over there.

    Raises:
        UsageError: a path is not absolute.
    """
    found = {1: call.text("stdout"), 2: call.text("stderr")}
    for path in found.values():
        if path and not path.startswith("/"):
            raise UsageError(
                f"{path} is not an absolute path", "The file is on the other host: name it whole."
            )
    return {number: path for number, path in found.items() if path}


def limits(call: Call) -> Limits:
    """Return what --max-downtime and --bandwidth say.

    Raises:
        UsageError: one of them is no such amount.
    """
    from migrate.live.strategy import Limits

    return Limits(
        downtime_seconds=call.seconds("max-downtime") or None,
        bytes_per_second=_bytes(call.text("bandwidth")) if call.text("bandwidth") else None,
    )


def _bytes(text: str) -> int:
    """Return a number of bytes that may end in K, M or G."""
    digits, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "")
    if not (digits.isascii() and digits.isdecimal()) or int(digits) == 0:
        raise UsageError(
            f"invalid value for --bandwidth: {text}",
            "Write a number of bytes a second, such as 50M.",
        )
    return int(digits) * _UNITS.get(unit, 1)


def strategy(call: Call) -> Strategy:
    """Return what --strategy says.

    Raises:
        UsageError: there is none of that name.
    """
    from migrate.live.strategy import STRATEGIES

    for known in STRATEGIES:
        if call.text("strategy") == known:
            return known
    raise UsageError(
        f"invalid value for --strategy: {call.text('strategy')}",
        f"Write one of {', '.join(STRATEGIES)}.",
    )


def wanted(call: Call) -> Wanted:
    """Return what is called otherwise on the other host, by --map and by options.

    Raises:
        UsageError: something of it is not acceptable.
    """
    from migrate.live.volumes import mapping

    path = call.text("map")
    return mapping.with_options(
        mapping.read(path) if path else mapping.Wanted(),
        bundle=call.text("bundle") or None,
        volumes=call.texts("volume"),
        bridges=bridges(call),
    )


def bridges(call: Call) -> dict[str, str]:
    """Return what --bridge says, here and there.

    Raises:
        UsageError: one is written otherwise.
    """
    return dict(map(_pair, call.texts("bridge")))


def _pair(value: str) -> tuple[str, str]:
    """Return the two bridges of a --bridge."""
    here, equals, there = value.partition("=")
    if not (here and equals and there):
        raise UsageError(f"invalid value for --bridge: {value}", "Write HERE=THERE.")
    return here, there


def way(call: Call, target: str) -> Way:
    """Return how the other host is reached, from the options that they all share.

    Raises:
        UsageError: the transport is none, or is not that of a control path.
    """
    from migrate.live.reach import Way

    transport, control_path = call.text("transport"), call.options.get("control-path")
    if transport not in ("paramiko", "openssh"):
        raise UsageError(
            f"invalid value for --transport: {transport}", "Write paramiko or openssh."
        )
    if control_path and transport != "openssh":
        raise UsageError("--control-path is for the ssh program", "Add --transport openssh.")
    agent = [call.text("remote-command")]
    if call.text("remote-root"):
        agent += ["--root", call.text("remote-root")]
    return Way(
        target=target,
        agent=(*agent, "agent"),
        transport="openssh" if transport == "openssh" else "paramiko",
        config_file=call.text("ssh-config") or None,
        known_hosts=call.text("known-hosts") or None,
        identity=call.text("identity") or None,
        connect_seconds=call.seconds("connect-timeout") or None,
        control_path=str(control_path) if control_path else None,
    )
