"""Which volumes a running container has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from migrate.errors import UsageError
from migrate.live import subject
from migrate.live.volumes.find import Bundles, find, is_within
from migrate.live.volumes.mapping import Choice
from migrate.live.volumes.volume import Volume
from tests.checkpoint import conftest as boxes
from tests.checkpoint.conftest import Box, Maker, eventually
from tests.support.bundle import Config

from .conftest import bind

box = boxes.box  # the fixture


def found(made: Box, wanted: dict[str, Choice] | None = None) -> dict[str, Volume]:
    """The volumes of a container by where they are first mounted."""
    container = subject.find(made.store, made.id)
    record = container.record
    bundles = Bundles(record["bundle"], record["rootfs"], "/srv/there")
    return {each.points[0]: each for each in find(container, wanted or {}, bundles)}


@pytest.mark.criu
def test_each_is_found_as_what_it_is(box: Maker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_bytes(bytes(100_000))
    (tmp_path / "conf").write_text("old")

    def change(config: Config) -> None:
        config["mounts"] += [
            bind(f"{tmp_path}/data", "/data"),
            bind(f"{tmp_path}/data/../data", "/again", "ro"),
            bind(f"{tmp_path}/conf", "/conf", "ro"),
            bind("/dev/null", "/null"),
            bind("/sys/kernel", "/kernel", "ro"),
            bind("own", "/own"),
            bind("rootfs/etc", "/etc-again"),
        ]

    made = box("sh", "-c", "cd /data; exec sleep 1000", change=change)
    (Path(made.bundle) / "own").mkdir()
    made.start()
    eventually(lambda: os.readlink(f"/proc/{made.record['pid']}/cwd") == "/data", "it is there")
    volumes = found(made)
    assert sorted(volumes) == ["/conf", "/data", "/kernel", "/null", "/own"]
    data, conf, null = volumes["/data"], volumes["/conf"], volumes["/null"]
    assert data.points == ("/data", "/again")
    assert (data.kind, data.is_writable, data.there) == ("folder", True, f"{tmp_path}/data")
    assert data.size_bytes >= 100_000
    assert (conf.kind, conf.is_writable, conf.is_replaced) == ("file", False, False)
    assert (null.kind, null.device) == ("other", "c 1:3")
    assert volumes["/kernel"].is_of_kernel
    assert not data.is_of_kernel
    own = volumes["/own"]
    assert (own.is_in_bundle, own.there) == (True, "/srv/there/own")
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(tmp_path / "conf")
    assert found(made)["/conf"].is_replaced
    skipped = found(made, {"/again": Choice("skip")})["/data"]
    assert skipped.asked == "skip"
    assert "has /data open" in skipped.open_inside
    moved = found(made, {f"{tmp_path}/data": Choice("sync", "/elsewhere")})["/data"]
    assert (moved.asked, moved.there) == ("sync", "/elsewhere")
    with pytest.raises(UsageError, match="no volume /database") as caught:
        found(made, {"/database": Choice("sync")})
    assert f"{tmp_path}/data" in caught.value.hint


def test_what_lies_in_the_bundle_goes_with_it() -> None:
    bundles = Bundles("/srv/web", "/srv/web/rootfs", "/srv/other")
    assert bundles.counterpart("/srv/web/rootfs/etc") == "/srv/other/rootfs/etc"
    assert bundles.counterpart("/srv/web/data") == "/srv/other/data"
    assert bundles.counterpart("/srv/website") == "/srv/website"
    elsewhere = Bundles("/srv/web", "/var/roots/web", "/srv/other")
    assert elsewhere.counterpart("/var/roots/web/etc") == "/srv/other/rootfs/etc"
    assert elsewhere.is_in_rootfs("/var/roots/web")
    assert not bundles.is_in_bundle("/srv/web")


def test_a_path_is_within_itself_and_folders_around_it() -> None:
    assert is_within("/a/b", "/a")
    assert is_within("/a", "/a")
    assert is_within("/a", "/")
    assert not is_within("/ab", "/a")


@pytest.mark.criu
def test_a_mount_that_came_along_is_where_the_one_around_it_is(box: Maker, tmp_path: Path) -> None:
    inner = tmp_path / "data/inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "inner", inner], check=True)
    try:
        mount = {"destination": "/data", "source": f"{tmp_path}/data", "options": ["rbind"]}
        made = box("sleep", "1000", change=lambda config: config["mounts"].append(mount))
        made.start()
        volumes = found(made, {"/data": Choice("exists", "/elsewhere")})
    finally:
        subprocess.run(["umount", "-l", inner], check=True)
    assert sorted(volumes) == ["/data", "/data/inner"]
    below = volumes["/data/inner"]
    assert (below.around, below.there) == (f"{tmp_path}/data", "/elsewhere/inner")
    assert below.is_mount
