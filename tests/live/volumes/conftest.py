"""A container with volumes, on a host of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.moving import Moved, moved
from tests.support.bundle import Config
from tests.support.hosts import Host, Site

Mounts = Callable[..., Moved]


def bind(source: str, inside: str, *options: str) -> dict[str, Any]:
    """A bind mount of config.json."""
    return {"destination": inside, "source": source, "options": ["bind", *options]}


@pytest.fixture
def unmade(hosts: Site) -> Iterator[Moved]:
    """A container that the test makes as it needs it."""
    with moved(hosts) as container:
        yield container


@pytest.fixture
def mounting(unmade: Moved) -> Mounts:
    """Make the container with these mounts of config.json."""

    def make(*mounts: dict[str, Any], change: Any = None) -> Moved:
        def changed(config: Config) -> None:
            config["mounts"] += mounts
            if change is not None:
                change(config)

        unmade.create(change=changed)
        return unmade

    return make


def folder(host: Host, path: str) -> Path:
    """Make a folder on a host, and return it as seen from outside."""
    made = host.folder(path)
    made.mkdir(parents=True, exist_ok=True)
    return made
