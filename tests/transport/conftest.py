"""What the tests of the transport share: a pair of links, an sshd."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from migrate.transport.channel import channel_pair
from migrate.transport.link import Link
from migrate.transport.ssh import Program
from tests.transport.session import PROGRAMS
from tests.transport.sshd import Sshd, running_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that lets its own client key in."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    """Source and destination, greeted."""
    left, right = channel_pair()
    source = Link(left, "source")
    destination = Link(right, "destination")
    greeting = threading.Thread(target=destination.handshake)
    greeting.start()
    source.handshake()
    greeting.join()
    yield source, destination
    closing = threading.Thread(target=destination.close)
    closing.start()
    source.close()
    closing.join()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test did, its threads are gone."""
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert left == []


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Program:
    """Each of the two."""
    name: Program = request.param
    return name
