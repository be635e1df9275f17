"""Limits that change while a container runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.errors import BrokenState, CgroupError, WrongStatus
from migrate.runtime import cgroup
from migrate.runtime.state import Store
from migrate.runtime.update import update
from tests.runtime.test_cgroup import inside
from tests.runtime.test_state import make, record_of

pytestmark = pytest.mark.root


@pytest.fixture
def paths() -> Iterator[dict[str, str]]:
    found = cgroup.resolve(None, f"cli-update-{os.getpid()}")
    cgroup.create(found, None)
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


def test_new_limits_hold_and_are_remembered(tmp_path: Path, paths: dict[str, str]) -> None:
    store = Store(str(tmp_path))
    with inside(paths, "sleep", "100") as process:
        record = make(store, "a", process.pid, cgroup=paths)
        config = {"linux": {"resources": {"pids": {"limit": 9}, "cpu": {"cpus": "0"}}}}
        store.replace("a", "config.json", json.dumps(config).encode())
        update(store, record, {"pids": {"limit": 20}, "cpu": {"shares": 512}})
        with pytest.raises(CgroupError):
            update(store, record, {"cpu": {"cpus": "777"}})
        assert json.loads(store.read("a", "config.json")) == {
            "linux": {"resources": {"pids": {"limit": 20}, "cpu": {"cpus": "0", "shares": 512}}}
        }
        assert cgroup.stats(paths)["pids"]["limit"] == 20
        store.replace("a", "config.json", b"torn")
        with pytest.raises(BrokenState, match=r"config\.json"):
            update(store, record, {"pids": {"limit": 21}})
        process.kill()


def test_what_has_stopped_has_no_limits(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(WrongStatus, match="container not running"):
        update(store, record_of("a", cgroup={}), {"pids": {"limit": 20}})
