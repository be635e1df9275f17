"""What would go wrong, found before anything is touched.

Lives here: the two calls that look and run the checks, one on each host, and what is
put between them. Must not live here: the checks: of one host (`machine`), of two
(`comparison`), of the container where it is (`standing`), of its needs (`demands`), of
the place it would have (`landing`); how anything is looked at (`host_facts`, `needs`,
`subject`). `live` only.

    source         needs, findings = look_here(...)
                   outcome = ask(...)
    destination        look_there(question, ...)

Each check yields findings: `refuse` where the container would not arrive whole, `warn`
where it would and something about it changes, `ok` where a person would ask. Each says
the thing by its name, and the way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from migrate.events import Finding, as_json
from migrate.live import clocks, comparison, demands, landing, machine, standing
from migrate.live.hearing import findings_of
from migrate.live.host_facts import HostFacts, gather
from migrate.live.needs import Needs, needs_of
from migrate.live.reach import Reached
from migrate.live.subject import Subject
from migrate.live.wire import Fields
from migrate.live.work import Work
from migrate.runtime.state import Store

CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found, and the destination."""

    findings: list[Finding]
    there: HostFacts

    @property
    def refusals(self) -> list[Finding]:
        """Return why it may not move."""
        return [each for each in self.findings if each.verdict == "refuse"]


def look_here(
    here: HostFacts, subject: Subject | None, *, thorough: bool = False
) -> tuple[Needs | None, list[Finding]]:
    """Check the source's side.

    Args:
        here: of `gather`.
        subject: the container, if it is about one.
        thorough: say what `migrate check` says.

    Returns:
        The container's needs, and the findings.
    """
    findings = machine.judge(here, thorough=thorough)
    if subject is None:
        return None, findings
    needs = needs_of(subject.record, subject.spec, subject.facts, subject.plan)
    findings += standing.judge(subject.facts, subject.plan, here, subject.files)
    return needs, findings


def ask(
    reached: Reached,
    here: HostFacts,
    needs: Needs | None,
    *,
    bundle: str,
    thorough: bool = False,
) -> Outcome:
    """Have the destination look, and return what it says, and what its clocks do.

    Args:
        here: of `gather`.
        needs: of `look_here`.
        bundle: path the bundle would have there.

    Raises:
        TransportError: the link broke.
        ProtocolError: the answer is none.
    """
    question = {
        "host": here.to_json(),
        "needs": None if needs is None else needs.to_json(),
        "thorough": thorough,
    }
    answer = Fields(
        "preflight",
        reached.link.call("preflight", {"question": question, "bundle": bundle}, CALL_SECONDS),
    )
    there = HostFacts.from_json(answer.object("host"))
    findings = findings_of(answer.value.get("findings"), reached.peer.host)
    findings += clocks.judge(
        clocks.measure(reached.link),
        there=there.name,
        are_kept=None if needs is None else "time" in there.namespaces,
    )
    return Outcome(findings, there)


class Looking:
    """This host, looked at while something else is waited for; CRIU takes its time.

    A context manager, or begun and never ended where the program ends anyway.

    Args:
        criu: as given by --criu.
        root: the state root here.
    """

    def __init__(self, criu: str | None, root: str) -> None:
        self._work = Work("looking", lambda: gather(criu=criu, root=root))
        self._work.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._work.end()

    def result(self) -> HostFacts:
        """Wait for it."""
        return self._work.result()


def foretell(reached: Reached) -> None:
    """Have the destination begin to look at itself; it will be asked soon.

    Raises:
        TransportError: the link broke.
    """
    reached.link.call("look", None, CALL_SECONDS)


def consult(
    reached: Reached,
    subject: Subject | None,
    here: HostFacts,
    *,
    bundle: str,
    thorough: bool = False,
) -> Outcome:
    """Check both sides, for one container or for none.

    Args:
        subject: the container.
        here: this host.
        bundle: path the bundle would have there.
        thorough: say what `migrate check` says.

    Raises:
        TransportError: the link broke.
        ProtocolError: the answer is none.
    """
    needs, findings = look_here(here, subject, thorough=thorough)
    outcome = ask(reached, here, needs, bundle=bundle, thorough=thorough)
    outcome.findings[:0] = findings
    return outcome


def look_there(
    question: object,
    *,
    here: HostFacts,
    store: Store,
    bundle: str,
) -> dict[str, Any]:
    """Check the destination's side.

    Args:
        question: what `ask` sent.
        here: the destination.
        store: its containers.
        bundle: path the bundle would have here.

    Returns:
        The answer: this host, and the findings.

    Raises:
        ProtocolError: the question is none.
    """
    fields = Fields("preflight", question)
    source = HostFacts.from_json(fields.value.get("host"))
    wanted = fields.value.get("needs")
    needs = None if wanted is None else Needs.from_json(wanted)
    thorough = fields.claim("thorough")
    with landing.Questions(needs, is_patient=thorough) as questions:
        here.look_for_room(bundle)
        found = machine.judge(here, thorough=thorough)
        for check in comparison.CHECKS:
            found += check.judge(source, here, source=source.name, there=here.name)
        if needs is not None:
            for check in demands.CHECKS:
                found += check.judge(here, needs, there=here.name)
            found += landing.judge(here, needs, store, bundle, questions)
    return {"host": here.to_json(), "findings": [as_json(each) for each in found]}
