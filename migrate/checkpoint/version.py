"""What a CRIU can do on this host.

Lives here: its version and features, asked once over one conversation. Must not live
here: whether that is enough (`live.preflight`, `dump`). May be imported by
`checkpoint`, `live` and `cli`.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrate.checkpoint.session import Session
from migrate.errors import CriuError

OLDEST = (4, 2, 0)


@dataclass(slots=True, frozen=True, kw_only=True)
class Version:
    """CRIU's version and features.

    Attributes:
        number: such as (4, 2, 1).
        dirty_tracking: the kernel tells which pages were written (pre-dump).
        lazy_pages: pages can be fetched on demand.
    """

    number: tuple[int, int, int]
    dirty_tracking: bool = False
    lazy_pages: bool = False

    def __str__(self) -> str:
        return ".".join(map(str, self.number))


def version(criu: str) -> Version:
    """Return version and features.

    Raises:
        CriuError: it does not answer as CRIU does.
    """
    from pycriu import rpc

    with Session(criu) as session:
        number = _number(session.request("VERSION", keep_open=True).version)
        wanted = rpc.criu_features(mem_track=True, lazy_pages=True)
        features = session.request("FEATURE_CHECK", features=wanted).features
    return Version(
        number=number,
        dirty_tracking=features.mem_track,
        lazy_pages=features.lazy_pages,
    )


def require(session: Session) -> str:
    """Return the version as text, on a conversation that goes on.

    Raises:
        CriuError: it is too old for what this program asks of it.
    """
    number = _number(session.request("VERSION", keep_open=True).version)
    text = ".".join(map(str, number))
    if number < OLDEST:
        raise CriuError(
            f"criu is of version {text}, {'.'.join(map(str, OLDEST))} or newer is needed",
            "Run scripts/setup, or give a newer one with --criu.",
        )
    return text


def _number(answer: object) -> tuple[int, int, int]:
    """Return the three numbers of a `criu_version` message."""
    major, minor, patch = (
        int(getattr(answer, name)) for name in ("major_number", "minor_number", "sublevel")
    )
    return major, minor, patch
