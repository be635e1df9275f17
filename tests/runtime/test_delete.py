"""Ending containers that are in no state a command would leave them in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.errors import CgroupError, ContainerNotFound, Locked
from migrate.runtime import cgroup
from migrate.runtime.delete import delete
from migrate.runtime.state import Store
from tests.runtime.test_cgroup import inside
from tests.runtime.test_state import make

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


@pytest.fixture
def paths() -> Iterator[dict[str, str]]:
    found = cgroup.resolve(None, f"cli-delete-{os.getpid()}")
    cgroup.create(found, None)
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


def test_processes_beside_the_first_are_killed_too(store: Store, paths: dict[str, str]) -> None:
    with inside(paths, "sleep", "100") as first, inside(paths, "sleep", "100") as second:
        make(store, "a", first.pid, cgroup=paths)
        cgroup.freeze(paths)
        delete(store, "a", force=True)
        assert [first.wait(), second.wait()] == [-9, -9]
    assert not cgroup.exists(paths)
    assert store.ids() == []


@pytest.mark.parametrize("torn", [False, True])
def test_a_record_that_cannot_be_read_still_tells_its_cgroup(
    store: Store,
    paths: dict[str, str],
    torn: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    with inside(paths, "sleep", "100") as process:
        record = make(store, "a", process.pid, cgroup=paths, schema_version=99)
        name = os.path.basename(paths["pids"] if "pids" in paths else paths[""])
        config = {"ociVersion": "1.0.2", "root": {"path": "r"}, "linux": {"cgroupsPath": name},
                  "process": {"cwd": "/", "args": ["x"]}}  # fmt: skip
        store.replace("a", "config.json", json.dumps(config).encode())
        if torn:
            store.replace("a", "state.json", json.dumps(record)[:20].encode())
        delete(store, "a", force=True)
        assert process.wait() == -9
    assert not cgroup.exists(paths)
    assert store.ids() == []


def test_a_group_that_cannot_be_its_own_is_left_alone(store: Store) -> None:
    own = {key: tree.own for key, tree in cgroup.hierarchies().items()}
    make(store, "a", cgroup=own)
    with pytest.raises(CgroupError, match="not the container's"):
        delete(store, "a", force=True)
    with store.lock("a"):
        store.remove("a")


def test_what_is_being_moved_is_not_deleted_and_not_killed(
    store: Store, paths: dict[str, str]
) -> None:
    with inside(paths, "sleep", "100") as process:
        make(store, "a", process.pid, cgroup=paths)
        store.replace("a", "migration", b"to host2\n")
        for force in (False, True):
            with pytest.raises(Locked, match="is being moved to host2"):
                delete(store, "a", force=force)
        assert process.poll() is None
        os.unlink(f"{store.path('a')}/migration")
        delete(store, "a", force=True)
        process.wait()


def test_deleting_nothing_is_an_error_without_force(store: Store) -> None:
    with pytest.raises(ContainerNotFound):
        delete(store, "a")
    assert delete(store, "a", force=True) == []
    assert not os.path.exists(store.root)


def test_a_create_killed_before_it_had_the_lock_leaves_nothing_after_delete(store: Store) -> None:
    os.makedirs(store.path("a"))
    with pytest.raises(ContainerNotFound):
        delete(store, "a")
    delete(store, "a", force=True)
    assert not os.path.lexists(store.path("a"))


def test_what_is_no_directory_of_ours_stays(store: Store, tmp_path: Path) -> None:
    os.makedirs(f"{store.path('a')}/somebody's")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", store.path("b"))
    for name in ("a", "b"):
        delete(store, name, force=True)
        assert os.path.lexists(store.path(name))
    assert (tmp_path / "elsewhere").is_dir()
