"""What the other side says on its own: findings and events, as this side's.

Lives here: reading them with suspicion, and giving them its host's name. `live` only.
"""

from __future__ import annotations

from typing import Any

from migrate.errors import ProtocolError
from migrate.events import Finding, Log, PhaseEntered, emit


def counted(refusals: list[Finding]) -> str:
    """Return the first refusal, and how many more there are."""
    more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
    return f"{refusals[0].message}{more}"


def findings_of(answer: Any, host: str) -> list[Finding]:
    """Return what the other side's preflight answered.

    Raises:
        ProtocolError: it is no list of findings.
    """
    try:
        return [
            Finding(
                host=host,
                check=str(each["check"]),
                verdict=each["verdict"] if each["verdict"] in ("ok", "warn") else "refuse",
                message=str(each["message"]),
                hint=str(each["hint"]),
            )
            for each in answer
        ]
    except (TypeError, KeyError) as error:
        raise ProtocolError(f"{host}: preflight is not understood: {error}") from None


def relay(event: Any, host: str) -> None:
    """Emit an event of the other side as one of this stream."""
    if not isinstance(event, dict):
        return
    kind = event.get("event")
    if kind == "PhaseEntered" and isinstance(event.get("phase"), str):
        emit(PhaseEntered(host=host, side="destination", phase=event["phase"]))
    elif kind == "Log" and isinstance(event.get("message"), str):
        emit(Log(host=host, level="info", message=f"{host}: {event['message']}"))
