"""`migrate live`: the way it should go, and what it says of it."""

from __future__ import annotations

import json

from tests.live.moving import ID, Moved


def test_a_container_moves_and_nobody_notices(container: Moved) -> None:
    container.live()
    container.must_run_on("host2")


def test_it_comes_back_into_the_bundle_it_left(container: Moved) -> None:
    container.live()
    container.must_run_on("host2")
    container.host2.run(["migrate", "live", ID, "--to", "host1"])
    container.must_run_on("host1")
