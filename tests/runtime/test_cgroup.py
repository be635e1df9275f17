"""Control groups on the real kernel: places, processes, freezing, removal."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.errors import CgroupError
from migrate.runtime import cgroup
from migrate.runtime.cgroup import hierarchy, tree

pytestmark = pytest.mark.root

FORKER = "while :; do (sleep 0.01 &) ; done"


@pytest.fixture
def paths() -> Iterator[dict[str, str]]:
    found = cgroup.resolve(None, f"cli-{os.getpid()}")
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


@pytest.fixture
def made(paths: dict[str, str]) -> dict[str, str]:
    cgroup.create(paths, None)
    return paths


@pytest.fixture
def unified(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A group of the cgroup2 tree alone, as on a v2 host; below the caller's parent."""
    del tmp_path
    place = hierarchy.hierarchies()[""]
    found = {"": f"{place.mount_point}/cli-v2-{os.getpid()}"}
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


def inside(paths: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
    """A process that was put into the groups before it became the command."""
    process = subprocess.Popen(["sh", "-c", 'read go; exec "$@"', "sh", *command], stdin=-1)
    cgroup.add(paths, process.pid)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    return process


def test_every_mounted_controller_has_a_place() -> None:
    found = hierarchy.hierarchies()
    own = Path("/proc/self/cgroup").read_text()
    for key, place in found.items():
        assert f":{key}:" in own
        assert os.path.exists(f"{place.mount_point}/cgroup.procs")
        pids = Path(place.own, "cgroup.procs").read_text().split()
        assert str(os.getpid()) in pids, place


def test_a_path_starts_at_the_root_or_at_the_callers_own() -> None:
    found = hierarchy.hierarchies()
    for key, path in cgroup.resolve("/a//b/./c", "x").items():
        assert path == f"{found[key].mount_point}/a/b/c"
    for key, path in cgroup.resolve("a", "x").items():
        assert path == f"{found[key].own.rstrip('/')}/a"
    assert cgroup.resolve(None, "x") == cgroup.resolve("", "x") == cgroup.resolve("x", "y")


@pytest.mark.parametrize("path", ["..", "/../x", "a/../b", "/", ".", "a\nb", "a\0b"])
def test_a_path_that_leaves_its_tree_is_refused(path: str) -> None:
    with pytest.raises(CgroupError, match="cgroupsPath"):
        cgroup.resolve(path, "x")


def test_processes_are_found_in_groups_below_too(made: dict[str, str]) -> None:
    top = inside(made, "sleep", "100")
    below = {key: f"{path}/below" for key, path in made.items()}
    tree.make(below)
    nested = inside(below, "sleep", "100")
    assert cgroup.procs(made) == sorted([top.pid, nested.pid])
    cgroup.kill(made)
    assert [top.wait(), nested.wait()] == [-9, -9]
    assert cgroup.procs(made) == []
    cgroup.destroy(made)
    assert not cgroup.exists(made)


@pytest.mark.parametrize("version", ["host", "v2"])
def test_a_frozen_process_stands_still_and_goes_on(
    made: dict[str, str], unified: dict[str, str], version: str, tmp_path: Path
) -> None:
    paths = made
    if version == "v2":
        paths = unified
        tree.make(paths)
    counter = tmp_path / "counter"
    script = (
        f"i=0; while :; do i=$((i+1)); echo $i > {counter}.new; mv {counter}.new {counter}; done"
    )
    with inside(paths, "sh", "-c", script) as process:
        while not counter.exists():
            time.sleep(0.001)
        assert cgroup.frozen_state(paths) == "THAWED"
        cgroup.freeze(paths)
        assert cgroup.frozen_state(paths) == "FROZEN"
        stood = counter.read_text()
        time.sleep(0.05)
        assert counter.read_text() == stood
        cgroup.thaw(paths)
        while counter.read_text() == stood:
            time.sleep(0.001)
        cgroup.freeze(paths)
        cgroup.kill(paths)
        assert process.wait() == -9


@pytest.mark.parametrize("version", ["host", "v2"])
def test_what_forks_without_end_is_killed_whole(
    made: dict[str, str], unified: dict[str, str], version: str
) -> None:
    paths = made
    if version == "v2":
        paths = unified
        tree.make(paths)
    with inside(paths, "sh", "-c", FORKER) as process:
        time.sleep(0.05)
        cgroup.kill(paths)
        assert process.wait() == -9
    assert cgroup.procs(paths) == []


def test_groups_deeper_than_any_path_are_seen_and_go(made: dict[str, str]) -> None:
    """A container that may make groups must not hide in them, nor become undeletable."""
    place = cgroup.directory_of(made, "freezer") or made[""]
    at = os.open(place, os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("a", dir_fd=at)
        inner = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    with subprocess.Popen(["sleep", "100"]) as process:
        fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=at)
        os.write(fd, str(process.pid).encode())
        os.close(fd)
        os.close(at)
        assert cgroup.procs(made) == [process.pid]
        cgroup.kill(made)
        assert process.wait() == -9
    cgroup.destroy(made)
    assert not cgroup.exists(made)


def test_a_group_that_is_not_empty_is_nobody_elses(made: dict[str, str]) -> None:
    with inside(made, "sleep", "100") as process:
        with pytest.raises(CgroupError, match="is not empty"):
            cgroup.create(made, None)
        process.kill()


def test_thawing_and_removing_what_is_gone_does_nothing(paths: dict[str, str]) -> None:
    cgroup.thaw(paths)
    cgroup.kill(paths)
    cgroup.destroy(paths)
    assert cgroup.frozen_state(paths) == "THAWED"
    assert cgroup.procs(paths) == []


def test_a_directory_that_is_no_group_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    cgroup.destroy({"freezer": str(tmp_path / "a")})
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(CgroupError, match="root of its tree"):
        cgroup.destroy({"": hierarchy.hierarchies()[""].mount_point})


def test_a_busy_group_is_named(made: dict[str, str]) -> None:
    with inside(made, "sleep", "100") as process:
        with pytest.raises(CgroupError, match="is busy"):
            cgroup.destroy(made, timeout_seconds=0.02)
        process.kill()
