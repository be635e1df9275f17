"""What the tests of a whole migration share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.moving import Moved, moved
from tests.support.hosts import Site


@pytest.fixture
def container(hosts: Site) -> Iterator[Moved]:
    """A container to be moved from host1 to host2, running and watched."""
    with moved(hosts) as made:
        made.create()
        yield made
