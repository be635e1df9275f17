"""The commands on a host whose only control group tree is cgroup2."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

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


@pytest.mark.parametrize(("options", "owner"), [(["rw"], 200000), (["ro"], 0)])
def test_a_writable_group_is_the_containers_to_divide(
    host: Host, options: list[str], owner: int
) -> None:
    """config-linux.md, "Cgroup ownership": the group, and only what the kernel lists."""

    def change(config: dict[str, Any]) -> None:
        ids = [{"containerID": 0, "hostID": 200000, "size": 65536}]
        config["linux"].update(uidMappings=ids, gidMappings=ids)
        config["linux"]["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
        kept = [each for each in config["mounts"] if each["type"] not in ("cgroup", "cgroup2")]
        tree = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
        config["mounts"] = [*kept, {**tree, "options": options}]

    bundle = host.folder("/srv/bundle")
    make_bundle(bundle, ["sleep", "10000"], change=change)
    for path in (bundle, bundle.parent):
        path.chmod(0o755)
    host.run(["migrate", "run", "-d", "--bundle", "/srv/bundle", "a"])
    group = "/sys/fs/cgroup/a"
    shown = host.run(["stat", "-c", "%u", group, f"{group}/cgroup.procs", f"{group}/cgroup.freeze"])
    assert [int(word) for word in shown.stdout.split()] == [owner, owner, 0]
    make = ["migrate", "exec", "a", "mkdir", "/sys/fs/cgroup/inner"]
    assert (host.run(make, check=False).returncode == 0) is (owner != 0)
    host.run(["migrate", "delete", "--force", "a"])
    assert host.run(["test", "-e", group], check=False).returncode != 0
