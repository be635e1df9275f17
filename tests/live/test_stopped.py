"""A container in which a process was stopped by a signal: CRIU must stop the others itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.live.moving import BUNDLE, PAYLOAD, Moved, moved
from tests.support.bundle import Config
from tests.support.hosts import Site
from tests.support.payload import Status


def with_a_stopped_one(config: Config) -> None:
    payload = " ".join([*PAYLOAD, "--memory", "24", "--dirty", "5"])
    script = f"sleep 1000 & kill -STOP $!; exec {payload}"
    config["process"]["args"] = ["sh", "-c", script]


@pytest.fixture
def container(hosts: Site) -> Iterator[Moved]:
    with moved(hosts) as made:
        made.create(change=with_a_stopped_one)
        yield made


@pytest.mark.parametrize("strategy", ["stop-copy", "pre-copy"])
def test_nothing_runs_any_more_once_it_is_called_frozen(container: Moved, strategy: str) -> None:
    """What is copied from there on is the last there is of it."""
    status = container.host1.folder(f"{BUNDLE}/rootfs/status")
    with container.stopped_at("source:after:FROZEN:stop", "--strategy", strategy) as process:
        before = Status.read(status)
        time.sleep(0.2)
        assert Status.read(status) == before
        assert before is not None
        container.go_on()
        assert process.wait() == 0
    container.must_run_on("host2")
