"""Fixtures of tests/engines: a host, podman and containerd on it, a check after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.hosts import Host

from .containerd import IMAGE as CONTAINERD_IMAGE
from .containerd import Containerd
from .place import engine_host, image_tree, snapshot
from .podman import IMAGE, Podman


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A real engine that cannot run here is a failure, not a skip."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.hosts)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host the engines are on."""
    with engine_host(tmp_path_factory.mktemp("engines")) as host:
        yield host


@pytest.fixture(scope="session")
def podman_once(place: Host) -> Podman:
    """Podman with its image; it has made what it makes once."""
    podman = Podman(place, place.scratch / "podman")
    podman("import", "--quiet", image_tree(place.scratch), IMAGE)
    podman.shows("true")
    podman.shows("true", "--network", "bridge")
    podman("pod", "create", "--name", "first")
    podman("pod", "start", "first")
    podman.remove_everything()
    return podman


@pytest.fixture(scope="session")
def containerd_once(place: Host, podman_once: Podman) -> Iterator[Containerd]:
    """Containerd with the same image."""
    folder = place.scratch / "containerd"
    folder.mkdir()
    archive = folder / "image.tar"
    podman_once("save", "--quiet", "--format", "oci-archive", "--output", archive, IMAGE)
    containerd = Containerd(place, folder)
    with containerd.up():
        containerd("image", "import", "--index-name", CONTAINERD_IMAGE, archive)
        containerd.run("first", "true", check=True)
        yield containerd


@pytest.fixture
def podman(podman_once: Podman) -> Iterator[Podman]:
    """Podman without a container; what a test makes is removed, and nothing is left of it."""
    before = snapshot(podman_once.host)
    yield podman_once
    podman_once.remove_everything()
    _expect_nothing(podman_once.host, before)


@pytest.fixture
def containerd(containerd_once: Containerd) -> Iterator[Containerd]:
    """Containerd without a container; what a test makes is removed, and nothing is left of it."""
    before = snapshot(containerd_once.host)
    yield containerd_once
    containerd_once.remove_everything()
    _expect_nothing(containerd_once.host, before)


def _expect_nothing(host: Host, before: leaks.Snapshot) -> None:
    found = leaks.left(before, lambda: snapshot(host))
    assert not found, "left behind:\n" + "\n".join(found)
