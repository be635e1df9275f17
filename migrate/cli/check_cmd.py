"""`migrate check`: say whether a container could move, and touch nothing.

Lives here: from options to an order, and the table of what was found. Imported by
`program` only.
"""

from __future__ import annotations

import sys

from migrate.cli.command import Call
from migrate.cli.reporting import readable
from migrate.events import Checked, Event, Finding, install

# Exit status where a check refused; 1 is that it could not be made.
REFUSED = 3

# In the order in which they are shown: what matters most is read last.
_WORDS = {"ok": "ok", "warn": "note", "refuse": "refused"}
_WORD_CELLS, _TOPIC_CELLS = 9, 12


def run(call: Call) -> int:
    """Check, print what was found, and return the exit status."""
    from migrate.cli.live_cmd import wanted, way
    from migrate.cli.showing import print_json
    from migrate.live.check import Order, check

    there = wanted(call)
    order = Order(
        container_id=call.id if call.arguments else None,
        store=call.store,
        way=way(call, call.text("to")) if call.text("to") else None,
        bundle=there.bundle,
        criu=str(call.globals["criu"] or "") or None,
        bridges=there.bridges,
        wanted=there,
    )
    before = install(print_json if call.has("json") else _Table().show)
    try:
        return 0 if check(order) else REFUSED
    finally:
        install(before)


class _Table:
    """Gathers what is found, and prints it once it is complete."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []

    def show(self, event: Event) -> None:
        """Take an event; the last one prints all."""
        if isinstance(event, Finding):
            self._findings.append(event)
        elif isinstance(event, Checked):
            sys.stdout.write(table(self._findings, event))
            sys.stdout.flush()


def table(findings: list[Finding], checked: Checked) -> str:
    """Return what was found in lines, refusals last, and what it comes to."""
    order = list(_WORDS)
    lines = []
    for each in sorted(findings, key=lambda each: order.index(each.verdict)):
        head = f"{_WORDS[each.verdict]:<{_WORD_CELLS}}{each.check:<{_TOPIC_CELLS}}"
        lines.append(head + readable(each.message))
        if each.hint and each.verdict != "ok":
            lines.append(" " * len(head) + readable(each.hint))
    return "\n".join([*lines, "", _sum(checked)]) + "\n"


def _sum(checked: Checked) -> str:
    """Return what the findings come to."""
    where = f" to {checked.destination}" if checked.destination else ""
    if checked.container:
        what = f"{checked.container} can{'not' if checked.refusals else ''} move{where}"
    elif checked.destination:
        verb = "cannot" if checked.refusals else "can"
        what = f"containers {verb} move from {checked.source}{where}"
    else:
        verb = "cannot" if checked.refusals else "can"
        what = f"{checked.source} {verb} send and receive containers"
    notes = f"{checked.warnings} note{'' if checked.warnings == 1 else 's'}"
    return f"{what}: {checked.refusals} refused, {notes}"
