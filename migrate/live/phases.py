"""The states of a migration, on both sides, and the words that pass between them.

Lives here: the phases, the table of what may follow what, and the table of the
messages. Must not live here: anything that acts. May be imported by `live` and
by `cli` (to show phases).

The source decides alone. Its COMMITTED gives the container away: from there on it is
the source's again only if the destination proves that its copy is gone and has never
run. The source keeps its own, frozen, until it has heard that the other one runs.

    source       PREPARED → COPYING → FROZEN → SENT → COMMITTED → DONE
                 any of the first four → ROLLED_BACK; COMMITTED only as said above
    destination  RESERVED → RECEIVING → VERIFIED → HELD → COMMITTED → ACTIVE
                 any of the first three → DISCARDED by itself;
                 HELD, COMMITTED → DISCARDED only by the source's word

Each phase is journaled twice (`live.journal`): its intent before the action that
leads into it, its result after. Two of the intents are marks of their own:

- ROLLED_BACK's intent is the source's other decision, and final;
- ACTIVE's intent says "CRIU is about to be told to let the tasks go": without it
  they have never run here, with it they may have. It outlives a restart, so that
  its absence proves something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Side = Literal["source", "destination"]


class Phase(Enum):
    """What the source has reached, in its own journal."""

    PREPARED = "PREPARED"
    COPYING = "COPYING"
    FROZEN = "FROZEN"
    SENT = "SENT"
    COMMITTED = "COMMITTED"
    DONE = "DONE"
    ROLLED_BACK = "ROLLED_BACK"


class Landing(Enum):
    """What the destination has reached, in its own journal."""

    RESERVED = "RESERVED"
    RECEIVING = "RECEIVING"
    VERIFIED = "VERIFIED"
    HELD = "HELD"
    COMMITTED = "COMMITTED"
    ACTIVE = "ACTIVE"
    DISCARDED = "DISCARDED"


AnyPhase = Phase | Landing

# What may come after a phase; None is the empty journal.
SOURCE_NEXT: Mapping[Phase | None, frozenset[Phase]] = {
    None: frozenset({Phase.PREPARED, Phase.ROLLED_BACK}),
    Phase.PREPARED: frozenset({Phase.COPYING, Phase.ROLLED_BACK}),
    Phase.COPYING: frozenset({Phase.COPYING, Phase.FROZEN, Phase.ROLLED_BACK}),
    Phase.FROZEN: frozenset({Phase.SENT, Phase.ROLLED_BACK}),
    Phase.SENT: frozenset({Phase.COMMITTED, Phase.ROLLED_BACK}),
    Phase.COMMITTED: frozenset({Phase.DONE, Phase.ROLLED_BACK}),
    Phase.DONE: frozenset(),
    Phase.ROLLED_BACK: frozenset(),
}
DESTINATION_NEXT: Mapping[Landing | None, frozenset[Landing]] = {
    None: frozenset({Landing.RESERVED, Landing.DISCARDED}),
    Landing.RESERVED: frozenset({Landing.RECEIVING, Landing.DISCARDED}),
    Landing.RECEIVING: frozenset({Landing.VERIFIED, Landing.DISCARDED}),
    Landing.VERIFIED: frozenset({Landing.HELD, Landing.DISCARDED}),
    Landing.HELD: frozenset({Landing.COMMITTED, Landing.DISCARDED}),
    Landing.COMMITTED: frozenset({Landing.ACTIVE, Landing.DISCARDED}),
    Landing.ACTIVE: frozenset(),
    Landing.DISCARDED: frozenset(),
}

# Phases after which the destination may give up without asking.
GIVES_UP_ALONE = frozenset({None, Landing.RESERVED, Landing.RECEIVING, Landing.VERIFIED})


def may_follow(before: AnyPhase | None, after: AnyPhase) -> bool:
    """Tell whether a side may go from one phase to another."""
    if isinstance(after, Phase):
        return not isinstance(before, Landing) and after in SOURCE_NEXT[before]
    return not isinstance(before, Phase) and after in DESTINATION_NEXT[before]


def phase_of(side: Side, name: str) -> AnyPhase:
    """Return the phase a journal names.

    Raises:
        ValueError: that side has no such phase.
    """
    return Phase(name) if side == "source" else Landing(name)


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of call from the source to the agent.

    Attributes:
        after: what the destination must have reached for it; None: nothing yet.
        leads_to: what it has reached when it answers, or None where it stays.
    """

    after: frozenset[Landing | None]
    leads_to: Landing | None


# The flow of one migration, top to bottom. The agent answers a call that comes
# out of turn with an error and does nothing.
MESSAGES: Mapping[str, Message] = {
    # the destination begins to look at itself, since it will be asked soon
    "look": Message(frozenset({None}), None),
    # versions, processor, room, names: the destination looks and touches nothing
    "preflight": Message(frozenset({None}), None),
    # what is at the places of volumes and layers, and whether it is the same as here
    "volumes": Message(frozenset({None}), None),
    "digests": Message(frozenset({None}), None),
    # a stream of pages is read and thrown away: how fast is the link?
    "probe": Message(frozenset({None}), None),
    # the id and the bundle are taken
    "reserve": Message(frozenset({None}), Landing.RESERVED),
    # config, facts, network plan; cgroup, network, image folder are made
    "receive": Message(frozenset({Landing.RESERVED}), Landing.RECEIVING),
    # CRIU is started and waits for its first image; the source is still running
    "await_images": Message(frozenset({Landing.RECEIVING}), None),
    # manifest of all images: verified, restored, held before anything has run
    "restore": Message(frozenset({Landing.RECEIVING}), Landing.HELD),
    # the source has committed: let them run
    "commit": Message(frozenset({Landing.HELD, Landing.COMMITTED}), Landing.ACTIVE),
    # the source has rolled back: leave nothing
    "discard": Message(
        frozenset(
            {
                None,
                Landing.RESERVED,
                Landing.RECEIVING,
                Landing.VERIFIED,
                Landing.HELD,
                Landing.COMMITTED,
                Landing.DISCARDED,
            }
        ),
        Landing.DISCARDED,
    ),
    # is all of its memory in its place? Answered after a while with yes or no
    "await_whole": Message(frozenset({Landing.ACTIVE}), None),
    # the source's journal says DONE: this side's may go
    "forget": Message(frozenset({Landing.ACTIVE}), None),
    # how long is a round trip
    "ping": Message(frozenset({None, *Landing}), None),
    # what `migrate recover` asks first; answered in any state
    "status": Message(frozenset({None, *Landing}), None),
}
