"""Disks that fill up, folders that cannot be written, and hosts of cgroup v2 alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.live.moving import Moved, moved, read
from tests.support.hosts import Host, Site

# The destination's memory for images, while a migration is on.
IMAGES = "/run/migrate/~migrations/moved"


@contextmanager
def full(host: Host, folder: str) -> Iterator[None]:
    """Have a tmpfs of a host take nothing more."""
    used = int(host.run(["df", "-k", "--output=used", folder]).stdout.split()[1])
    size = host.run(["findmnt", "-no", "OPTIONS", folder], check=False).stdout
    host.run(["mount", "-o", f"remount,size={max(used, 1)}k", folder])
    try:
        yield
    finally:
        before = next((word for word in size.split(",") if word.startswith("size=")), "size=50%")
        # The images' own tmpfs may be gone by then, as it should be.
        host.run(["mount", "-o", f"remount,{before.strip()}", folder], check=False)


@pytest.fixture
def small_srv(container: Moved) -> Iterator[Moved]:
    """A destination whose bundles lie in a tmpfs of their own."""
    container.host2.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/srv"])
    try:
        yield container
    finally:
        container.host2.run(["umount", "/srv"])


def rolled_back(container: Moved, place: str, host: Host, folder: str) -> str:
    with container.stopped_at(f"{place}:stop") as source, full(host, folder):
        container.go_on()
        assert source.wait() == 1
    container.must_run_on("host1")
    return read(container.host1.folder("/srv/output"))


def test_a_full_disk_for_the_bundle_over_there_rolls_back(small_srv: Moved) -> None:
    said = rolled_back(small_srv, "destination:after:RECEIVING", small_srv.host2, "/srv")
    assert "no space left" in said.lower()
    assert "/srv/moved" in said


def test_too_little_memory_for_the_images_over_there_rolls_back(hosts: Site) -> None:
    with moved(hosts) as container:
        container.create(["--memory", "8"])
        said = rolled_back(container, "source:after:COPYING", container.host2, IMAGES)
    assert "no space left" in said.lower()


def test_the_last_free_byte_over_there_is_kept_for_the_record(container: Moved) -> None:
    with (
        container.stopped_at("destination:after:HELD:stop") as source,
        full(container.host2, "/run"),
    ):
        container.go_on()
        assert source.wait() == 0, read(container.host1.folder("/srv/output"))
    container.must_run_on("host2")


def test_too_little_memory_for_the_images_here_rolls_back(container: Moved) -> None:
    said = rolled_back(container, "source:after:intent.FROZEN", container.host1, "/run")
    assert "it runs on here" in said


def test_a_journal_folder_that_cannot_be_written_is_refused(container: Moved) -> None:
    done = container.live("--journal-dir", "/proc/self", check=False)
    assert done.returncode == 1
    assert "--journal-dir" in done.stderr
    container.must_run_on("host1")


def test_a_record_that_cannot_be_written_rolls_back_or_finishes(container: Moved) -> None:
    for record in ("COPYING", "FROZEN", "SENT"):
        done = container.live(fault=f"source:before:{record}:raise", check=False)
        assert done.returncode == 1
        assert "fault on purpose" in done.stderr
        container.must_run_on("host1")
    done = container.live(fault="source:after:COMMITTED:raise", check=False)
    assert done.returncode == 0, done.stderr
    container.must_run_on("host2")


def test_a_decision_that_cannot_be_written_is_none(container: Moved) -> None:
    done = container.live(fault="source:before:COMMITTED:raise", check=False)
    assert done.returncode == 1
    container.must_run_on("host1")


@pytest.mark.parametrize("record", ["RECEIVING", "VERIFIED", "HELD"])
def test_an_agent_that_cannot_write_its_journal_rolls_back(container: Moved, record: str) -> None:
    done = container.live(fault=f"destination:before:{record}:raise", check=False)
    assert done.returncode == 1
    assert "fault on purpose" in done.stderr
    container.must_run_on("host1")


def test_a_container_moves_between_hosts_of_cgroup_v2_alone() -> None:
    with Site(layout="v2") as site, moved(site) as container:
        container.create()
        container.live()
        container.must_run_on("host2")
        container.host2.run(["migrate", "pause", "moved"])
        container.host2.run(["migrate", "live", "moved", "--to", "host1"])
        assert container.status(container.host1) == "paused"
        container.host1.run(["migrate", "resume", "moved"])
        container.must_run_on("host1")
