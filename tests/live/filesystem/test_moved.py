"""Whole migrations: what lies in the rootfs, and a destination without room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.live.moving import BUNDLE, ID, Moved

from .conftest import listing
from .test_sync import fill

SMALL = "/srv/small"


def contents(container: Moved, name: str) -> Path:
    """The folder that the test has put into the rootfs, seen from outside."""
    return container.site.hosts[name].folder(f"{BUNDLE}/rootfs/filled")


def test_all_kinds_of_files_come_along_there_and_back(container: Moved) -> None:
    here = contents(container, "host1")
    here.mkdir()
    fill(here)
    before = listing(here)
    container.live()
    container.must_run_on("host2")
    assert listing(contents(container, "host2")) == before
    there = contents(container, "host2")
    (there / "bin/cat").unlink()
    (there / "etc/passwd").write_text("changed there")
    shutil.rmtree(there / "empty-directory")
    before = listing(there)
    container.host2.run(["migrate", "live", ID, "--to", "host1"])
    container.must_run_on("host1")
    assert listing(here) == before


def test_a_destination_without_room_is_refused_and_one_that_fills_up_is_left(
    container: Moved,
) -> None:
    host2 = container.host2
    (container.host1.folder(f"{BUNDLE}/rootfs") / "large").write_bytes(os.urandom(16 << 20))
    host2.run(["mkdir", SMALL])
    host2.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", SMALL])
    try:
        refused = container.live("--bundle", f"{SMALL}/moved", check=False)
        assert refused.returncode == 1
        assert "of disk for the bundle" in refused.stderr
        container.must_run_on("host1")
        host2.run(["mount", "-o", "remount,size=40m", SMALL])
        filling = f"while ! [ -d {SMALL}/moved/rootfs/bin ]; do :; done; cat /dev/zero > {SMALL}/f"
        with host2.popen(["sh", "-c", filling]) as filler:
            failed = container.live("--bundle", f"{SMALL}/moved", check=False)
            filler.kill()
            filler.wait()
        assert failed.returncode == 1
        assert "no space left on device" in failed.stderr
        assert "Free space" in failed.stderr
        assert not host2.folder(f"{SMALL}/moved").exists()
        container.must_run_on("host1")
    finally:
        host2.run(["umount", "-l", SMALL])
