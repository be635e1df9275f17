"""The commands on a host whose only control group tree is cgroup2."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.support.bundle import make_bundle
from tests.support.hosts import Host, Site

pytestmark = pytest.mark.hosts


READ = "head -c 0 /dev/null && echo null: ok; head -c 1 < /own || echo own: no"


@pytest.fixture
def host() -> Iterator[Host]:
    with Site(layout="v2") as site:
        yield site.host1


def test_a_container_lives_from_create_to_delete(host: Host) -> None:
    bundle = host.folder("/srv/bundle")
    make_bundle(bundle, ["sleep", "10000"])
    # 1:11 is /dev/kmsg: the node may be there, and not be opened.
    os.mknod(bundle / "rootfs" / "own", 0o020666, os.makedev(1, 11))

    def migrate(*words: str) -> str:
        return host.run(["migrate", *words]).stdout

    migrate("create", "--bundle", "/srv/bundle", "a")
    migrate("start", "a")
    state = json.loads(migrate("state", "a"))
    assert state["status"] == "running"
    assert migrate("exec", "a", "sh", "-c", READ).split("\n")[:2] == ["null: ok", "own: no"]
    migrate("pause", "a")
    assert " paused " in migrate("list")
    migrate("resume", "a")
    pids = json.loads(migrate("ps", "--format", "json", "a"))
    assert pids == [state["pid"]]
    event = json.loads(migrate("events", "--stats", "a"))
    assert event["data"]["cpu"]["usage"]["total"] > 0
    migrate("pause", "a")
    migrate("delete", "--force", "a")
    assert migrate("list", "-q") == ""
