"""Records, and the directories they are in."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from migrate.errors import (
    BrokenState,
    ContainerExists,
    ContainerNotFound,
    StateError,
)
from migrate.runtime import listing, state, statedir
from migrate.runtime.delete import delete

if TYPE_CHECKING:
    from migrate.runtime.state import Record, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return state.Store(str(tmp_path / "root"))


def record_of(container_id: str, pid: int = 0, **changes: Any) -> Record:
    record: Any = {
        "schema_version": 1,
        "id": container_id,
        "bundle": "/bundle",
        "rootfs": "/bundle/rootfs",
        "pid": pid,
        "pid_start_ticks": state.process_start_ticks(pid) if pid else 0,
        "boot_id": state.boot_id(),
        "created": state.now_rfc3339(),
        "oci_version": "1.0.2",
        "annotations": {},
        "owner": "root",
        "cgroup": {},
        "stdio": ["/dev/null"] * 3,
        "terminal": False,
        "phase": "started",
    }
    return {**record, **changes}  # type: ignore[typeddict-item]


def make(store: Store, container_id: str, pid: int = 0, **changes: Any) -> Record:
    record = record_of(container_id, pid, **changes)
    with store.lock(container_id, create=True):
        store.reserve(container_id)
        store.save(record)
    return record


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "100"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", ["a", "A-b_c+d.e", "0", "...", "-x", "x" * 200])
def test_a_plain_name_is_an_id(name: str) -> None:
    state.validate_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\n", "é", "a\0", "x" * 2000])
def test_anything_else_is_none(name: str) -> None:
    with pytest.raises(StateError, match="invalid id format"):
        state.validate_id(name)


def test_a_record_comes_back_as_it_was_saved(store: Store) -> None:
    record = make(store, "a", annotations={"k": "v"})
    assert store.load("a") == record
    assert store.ids() == ["a"]
    assert stat.S_IMODE(os.stat(store.path("a")).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(store.state_path("a")).st_mode) == 0o600


def test_an_id_is_reserved_once(store: Store) -> None:
    make(store, "a")
    with store.lock("a", create=True), pytest.raises(ContainerExists):
        store.reserve("a")


def test_what_a_killed_create_left_is_reserved_anew(store: Store) -> None:
    make(store, "a", phase="creating")
    Path(store.path("a"), "config.json").write_text("{}")
    Path(store.path("a"), ".state.json.77").write_text("half")
    with store.lock("a", create=True):
        directory = store.reserve("a")
        assert os.listdir(directory) == ["lock"]
        store.save(record_of("a"))
    assert store.load("a")["phase"] == "started"


def test_removing_leaves_nothing(store: Store) -> None:
    make(store, "a")
    # It may still be waiting for memory, or what filled that in may have been killed.
    Path(store.path("a"), statedir.MEMORY_ARRIVING).write_text("[]")
    with store.lock("a"):
        store.remove("a")
    assert store.ids() == []
    assert os.listdir(store.root) == []
    with pytest.raises(ContainerNotFound):
        store.load("a")
    store.remove("a")


def test_a_save_cut_off_anywhere_leaves_the_record_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(store, "a")
    for call in ("write", "fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(statedir.os, call, _fail)  # type: ignore[attr-defined]
            with pytest.raises(OSError, match="full"):
                store.save(record_of("a", annotations={"new": "x"}))
        assert store.load("a") == before
        assert sorted(os.listdir(store.path("a"))) == ["lock", "state.json"]


def _fail(*_: object, **__: object) -> None:
    raise OSError(28, "full")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b'{"schema_version": 2}',
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"id": "a", "init_process_pid": 3, "config": {}}',
    ],
)
def test_a_broken_record_is_named_listed_and_removable(store: Store, content: bytes) -> None:
    make(store, "good")
    make(store, "a")
    Path(store.state_path("a")).write_bytes(content)
    with pytest.raises(BrokenState, match='container "a" is broken'):
        store.load("a")
    assert [(each["id"], each["status"]) for each in listing.describe_all(store)] == [
        ("a", "unknown"),
        ("good", "stopped"),
    ]
    with pytest.raises(BrokenState):
        delete(store, "a")
    assert delete(store, "a", force=True) == []
    assert store.ids() == ["good"]


@pytest.mark.parametrize("field", list(state._FIELDS))
def test_every_field_is_checked(store: Store, field: str) -> None:
    record: Any = make(store, "a")
    for value in (None, [[1]], {"x": 1}, 3.5, "other"):
        wrong = {**record, field: value}
        if type(value) is type(record[field]) and field not in {"id", "phase", "stdio", "cgroup"}:
            continue
        if value == {"x": 1} and field == "annotations":
            assert wrong != record
        Path(store.state_path("a")).write_text(json.dumps(wrong))
        with pytest.raises(BrokenState):
            store.load("a")


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_file_is_no_record(store: Store, kind: str, tmp_path: Path) -> None:
    make(store, "a")
    path = Path(store.state_path("a"))
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(BrokenState):
        store.load("a")
    delete(store, "a", force=True)
    assert store.ids() == []


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A tree that is nobody's container."""
    path = tmp_path / "stranger"
    (path / "below").mkdir(parents=True)
    for name in ("config.json", "kept", "below/kept"):
        (path / name).write_text("x")
    return path


def files_of(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def test_a_link_in_a_containers_place_is_never_followed(store: Store, stranger: Path) -> None:
    before = files_of(stranger)
    make(store, "a")
    Path(store.root, "link").symlink_to(stranger)
    assert store.ids() == ["a"]
    assert delete(store, "link", force=True) == []
    store.remove("link")
    with pytest.raises(ContainerNotFound):
        store.load("link")
    with pytest.raises(ContainerNotFound), store.lock("link"):
        pass
    with pytest.raises(StateError, match="symbolic link"), store.lock("link", create=True):
        pass
    assert files_of(stranger) == before


def test_a_root_that_is_none_costs_nobody_a_file(stranger: Path) -> None:
    before = files_of(stranger)
    store = state.Store(str(stranger.parent))
    assert store.ids() == []
    assert delete(store, "stranger", force=True) == []
    store.remove("stranger")
    with pytest.raises(StateError, match="no container"), store.lock("stranger", create=True):
        pass
    assert files_of(stranger) == before


def test_a_strangers_file_in_a_container_stays_and_is_named(store: Store) -> None:
    make(store, "a")
    kept = Path(store.path("a"), "kept")
    kept.write_text("x")
    with pytest.raises(StateError, match="holds kept"):
        delete(store, "a", force=True)
    assert kept.read_text() == "x"
    assert store.ids() == []
    kept.unlink()
    os.rmdir(store.path("a"))


def test_the_status_follows_the_process(sleeper: int) -> None:
    assert state.status(record_of("a", sleeper)) == "running"
    assert state.status(record_of("a", sleeper, phase="created")) == "created"
    assert state.status(record_of("a", phase="creating")) == "creating"
    os.kill(sleeper, signal.SIGKILL)
    while state._process_stat(sleeper) not in (None, ("Z", state.process_start_ticks(sleeper))):
        time.sleep(0.001)
    assert state.status(record_of("a", sleeper)) == "stopped"  # a zombie runs no more


@pytest.mark.parametrize("change", [{"pid_start_ticks": 1}, {"boot_id": "another"}])
def test_a_reused_pid_is_not_the_container(sleeper: int, change: dict[str, Any]) -> None:
    record = record_of("a", sleeper)
    pidfd = state.open_pidfd(record)
    assert pidfd is not None
    os.close(pidfd)
    record.update(change)  # type: ignore[typeddict-item]
    assert state.open_pidfd(record) is None
    assert state.status(record) == "stopped"


def test_a_pid_that_is_gone_has_no_descriptor() -> None:
    process = subprocess.Popen(["true"])
    record = record_of("a", process.pid)
    process.wait()
    assert state.open_pidfd(record) is None
    assert state.process_start_ticks(process.pid) == 0


def test_the_time_is_written_as_go_writes_it() -> None:
    text = state.now_rfc3339()
    assert text.endswith("Z")
    assert time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")
    assert not text[:-1].endswith("0") or "." not in text
