"""What the user wants of one migration.

Lives here: that. May be imported by `live` and `cli`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from migrate.live.reach import Way
from migrate.live.strategy import Limits, Strategy
from migrate.live.volumes.mapping import Wanted
from migrate.runtime.state import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants.

    Attributes:
        bundle: path over there; as here if None.
        criu: as given by --criu.
        bridges: those the container is on, and what stands for them over there.
        wanted: what else is called otherwise over there.
        strategy: how the memory goes.
        limits: how long it may stand still, and how much may be sent while it runs.
        files: paths over there that standard output (1) and error (2) go to.
    """

    container_id: str
    store: Store
    way: Way
    journals: str
    bundle: str | None
    criu: str | None
    bridges: Mapping[str, str] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)
    strategy: Strategy = "auto"
    limits: Limits = field(default_factory=Limits)
    files: Mapping[int, str] = field(default_factory=dict)
