"""Faults while volumes and layers are on their way: nothing is lost, nothing is left."""

from __future__ import annotations

import json
import os

import pytest

from tests.live.moving import BUNDLE, ID, Moved

from .conftest import Mounts, bind, folder

VOLUMES = ["--volume=/data=sync", "--volume=/kept=sync", "--volume=/cache=skip"]


@pytest.fixture
def container(mounting: Mounts, unmade: Moved) -> Moved:
    """One with a volume that is absent over there, one that is empty, and one left out."""
    for name in ("data", "kept", "cache"):
        (folder(unmade.host1, f"/srv/deep/{name}") / "file").write_text(name)
    folder(unmade.host2, "/srv/deep/kept").chmod(0o750)
    mounts = [bind(f"/srv/deep/{name}", f"/{name}") for name in ("data", "kept", "cache")]
    return mounting(*mounts)


def nothing_is_left_on_host2(container: Moved) -> None:
    place = container.host2.folder("/srv/deep")
    assert os.listdir(place) == ["kept"]
    assert os.listdir(place / "kept") == []
    assert (place / "kept").stat().st_mode & 0o7777 == 0o750
    assert not container.host2.folder(BUNDLE).exists()


@pytest.mark.parametrize(
    "fault",
    [
        "destination:before:RESERVED:kill",
        "destination:after:RECEIVING:kill",
        "destination:before:HELD:kill",
        "source:before:FROZEN:kill",
        "source:before:COMMITTED:kill",
    ],
)
def test_before_the_commit_it_runs_on_and_what_was_made_over_there_goes(
    container: Moved, fault: str
) -> None:
    failed = container.live(*VOLUMES, fault=fault, check=False)
    assert failed.returncode != 0
    for host in (container.host1, container.host2, container.host1):
        container.recover(host, check=False)
    container.must_run_on("host1")
    nothing_is_left_on_host2(container)
    container.live(*VOLUMES)
    container.must_run_on("host2")


@pytest.mark.parametrize(
    "fault",
    ["source:after:COMMITTED:kill", "destination:after:ACTIVE:kill", "source:before:DONE:kill"],
)
def test_after_the_commit_it_runs_there_and_its_volumes_may_come_back(
    container: Moved, fault: str
) -> None:
    container.live(*VOLUMES, fault=fault, check=False)
    container.recover(check=False)
    container.must_run_on("host2")
    host2 = container.host2
    files = host2.run(["migrate", "exec", ID, "sh", "-c", "cat /data/file /kept/file; ls /cache"])
    assert files.stdout == "datakept"
    assert (container.host1.folder("/srv/deep/data") / "file").read_text() == "data"
    mark = json.loads((container.host1.folder(BUNDLE) / ".migrate").read_text())
    assert mark["volumes"] == ["/srv/deep/data", "/srv/deep/kept"]


def test_a_folder_that_somebody_else_makes_meanwhile_is_theirs(container: Moved) -> None:
    host2 = container.host2
    with container.stopped_at("destination:after:RESERVED:stop", *VOLUMES) as process:
        theirs = folder(host2, "/srv/deep/data") / "theirs"
        theirs.write_text("theirs")
        container.go_on()
        assert process.wait() == 1
    container.must_run_on("host1")
    assert theirs.read_text() == "theirs"
    assert os.listdir(host2.folder("/srv/deep/kept")) == []
