"""Containers in other surroundings: user namespaces, cgroup v2, nested groups, hooks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.checkpoint.conftest import Maker, eventually
from tests.support.bundle import Config, make_bundle
from tests.support.hosts import Site

pytestmark = pytest.mark.criu

COUNTER = "i=0; while :; do i=$((i+1)); echo counted=$i > /status; sleep 0.01; done"


def with_cgroup_namespace(config: Config) -> None:
    """Let a configuration have a control group namespace."""
    if all(each["type"] != "cgroup" for each in config["linux"]["namespaces"]):
        config["linux"]["namespaces"].append({"type": "cgroup"})


def test_a_container_in_a_user_namespace_goes_on(box: Maker) -> None:
    def mapped(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    counter = box("sh", "-c", COUNTER, change=mapped)
    for path in [counter.rootfs, *counter.rootfs.rglob("*")]:
        os.chown(path, 100000, 100000, follow_symlinks=False)
    (counter.rootfs / "tmp").chmod(0o1777)
    for folder in (counter.folder, *counter.folder.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    counter.start()
    eventually(lambda: counter.number("counted") > 3, "it counts")
    assert counter.facts().user_namespace
    counter.checkpoint()
    before = counter.number("counted")
    counter.restore()
    eventually(lambda: counter.number("counted") > before, "it goes on")
    maps = Path(f"/proc/{counter.record['pid']}/uid_map").read_text().split()
    assert maps == ["0", "100000", "65536"]


def test_control_groups_below_its_own_come_back(box: Maker) -> None:
    def writable(config: Config) -> None:
        for mount in config["mounts"]:
            if mount["type"] == "cgroup":
                mount["options"].remove("ro")

    script = (
        "mkdir /sys/fs/cgroup/pids/inner && echo $$ > /sys/fs/cgroup/pids/inner/cgroup.procs;"
        + COUNTER
    )
    counter = box("sh", "-c", script, change=writable)
    counter.start()
    eventually(lambda: counter.number("counted") > 3, "it counts")
    assert counter.facts().has_nested_cgroups
    counter.checkpoint()
    before = counter.number("counted")
    counter.restore()
    eventually(lambda: counter.number("counted") > before, "it goes on")
    groups = Path(f"/proc/{counter.record['pid']}/cgroup").read_text()
    assert f":pids:/{counter.id}/inner" in groups


def test_hooks_see_the_restored_namespaces(box: Maker, tmp_path: Path) -> None:
    log = tmp_path / "hooks"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {log}\necho >> {log}\n")
    hook.chmod(0o755)

    def hooked(config: Config) -> None:
        config["hooks"] = {"createRuntime": [{"path": str(hook)}]}

    counter = box("sh", "-c", COUNTER, change=hooked)
    counter.start()
    eventually(lambda: counter.number("counted") > 3, "it counts")
    counter.checkpoint()
    log.unlink()
    counter.restore()
    told = json.loads(log.read_text())
    assert told["id"] == counter.id
    assert told["status"] == "creating"
    assert told["pid"] == counter.record["pid"]


def test_limits_are_those_of_the_configuration_again(box: Maker) -> None:
    def limited(config: Config) -> None:
        config["linux"]["resources"] = {"pids": {"limit": 3}}

    counter = box("sh", "-c", COUNTER, change=limited)
    counter.start()
    eventually(lambda: counter.number("counted") > 3, "it counts")
    counter.checkpoint()
    counter.restore()
    limit = Path(counter.record["cgroup"]["pids"]) / "pids.max"
    assert limit.read_text() == "3\n"


def test_an_empty_network_namespace_is_made_where_that_is_asked(box: Maker) -> None:
    counter = box("sh", "-c", COUNTER)
    counter.start()
    eventually(lambda: counter.number("counted") > 3, "it counts")
    counter.checkpoint("--empty-ns", "network")
    before = counter.number("counted")
    counter.restore("--empty-ns", "network")
    eventually(lambda: counter.number("counted") > before, "it goes on")


def test_on_a_host_with_cgroup_v2_alone_it_is_fenced_and_restored() -> None:
    with Site(layout="v2") as site:
        host = site.host1
        folder = host.folder("/srv/box")
        make_bundle(folder, ["sh", "-c", COUNTER], change=with_cgroup_namespace)
        status = folder / "rootfs" / "status"

        def counted() -> int:
            text = status.read_text().partition("=")[2] if status.exists() else ""
            return int(text) if text.strip().isdigit() else 0

        host.run_detached(["migrate", "run", "-d", "--bundle", "/srv/box", "v2"])
        eventually(lambda: counted() > 3, "it counts")
        host.run(["migrate", "checkpoint", "--image-path", "/srv/images", "v2"])
        before = counted()
        host.run_detached(
            [
                *("migrate", "restore", "-d", "--bundle", "/srv/box"),
                *("--image-path", "/srv/images", "v2"),
            ]
        )
        eventually(lambda: counted() > before, "it goes on")
        groups = host.run(["migrate", "exec", "v2", "cat", "/proc/self/cgroup"]).stdout
        assert groups.splitlines()[-1] == "0::/"
        host.run(["migrate", "delete", "--force", "v2"])
        shutil.rmtree(folder)
