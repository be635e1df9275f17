"""The walk-through of a container's life, word for word as its documentation tells it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from .driver import Result, Runtime, eventually, is_oracle, says_unknown

HEADER = re.compile(r"ID +PID +STATUS +BUNDLE +CREATED +OWNER")


@pytest.fixture
def bundle(runtime: Runtime, image_tarball: Path) -> Path:
    """A bundle made by hand: the tarball unpacked, `spec`, two values changed."""
    path = runtime.workspace / "mycontainer"
    (path / "rootfs").mkdir(parents=True)
    subprocess.run(["tar", "-C", path / "rootfs", "-xf", image_tarball], check=True)
    runtime.ok("spec", cwd=path)
    text = (path / "config.json").read_text()
    text = text.replace('"terminal": true', '"terminal": false')
    text = re.sub(r'"sh"\n', '"sleep", "10000"\n', text)
    (path / "config.json").write_text(text)
    return path


def test_the_whole_walk_through(runtime: Runtime, bundle: Path) -> None:
    name = runtime.new_id()

    def say(*arguments: str) -> Result:
        return runtime.ok(*arguments, cwd=bundle)

    assert say("create", name).out == ""
    header, row = say("list").out.splitlines()
    assert HEADER.match(header)
    columns = row.split()
    assert columns[0] == name
    assert columns[2:4] == ["created", str(bundle)]
    assert columns[5] == "root"
    assert say("start", name).out == ""
    state = json.loads(say("state", name).out)
    assert state["status"] == "running"
    assert state["pid"] == int(columns[1])
    lines = say("ps", name).out.splitlines()
    assert lines[0].split()[:3] == ["UID", "PID", "PPID"]
    assert lines[1].split()[-2:] == ["sleep", "10000"]
    assert len(lines) == 2
    assert "bin\n" in say("exec", name, "ls").out
    say("pause", name)
    assert "paused" in say("list").out
    say("resume", name)
    assert "running" in say("list").out
    event = json.loads(say("events", "--stats", name).out)
    assert (event["type"], event["id"]) == ("stats", name)
    assert event["data"]["cpu"]["usage"]["total"] > 0
    say("kill", name, "KILL")
    eventually(lambda: '"stopped"' in say("state", name).out, "the container is stopped")
    say("delete", name)
    assert len(say("list").out.splitlines()) == 1
    assert says_unknown(runtime.refuses("state", name))


def test_a_terminal_left_true_without_a_console_socket_says_what_to_do(
    runtime: Runtime, bundle: Path
) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = True
    (bundle / "config.json").write_text(json.dumps(config))
    error = runtime.refuses("create", runtime.new_id(), cwd=bundle)
    assert "tty" in error or "terminal" in error
    assert "console" in error or is_oracle()
    assert runtime.ids() == []


def test_the_spec_is_what_the_reference_writes(runtime: Runtime) -> None:
    work = runtime.workspace / "a"
    work.mkdir()
    runtime.ok("spec", cwd=work)
    config = json.loads((work / "config.json").read_text())
    assert config["process"]["args"] == ["sh"]
    assert config["process"]["terminal"] is True
    assert config["process"]["noNewPrivileges"] is True
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert [n["type"] for n in config["linux"]["namespaces"]][:5] == [
        "pid",
        "network",
        "ipc",
        "uts",
        "mount",
    ]
    assert [m["destination"] for m in config["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ]


def test_spec_does_not_overwrite_a_file(runtime: Runtime) -> None:
    work = runtime.workspace / "a"
    work.mkdir()
    (work / "config.json").write_text("mine")
    assert "exists" in runtime.refuses("spec", cwd=work)
    assert (work / "config.json").read_text() == "mine"


def test_spec_writes_into_the_bundle_it_is_given(runtime: Runtime) -> None:
    work = runtime.workspace / "a"
    work.mkdir()
    runtime.ok("spec", "--bundle", str(work))
    assert (work / "config.json").exists()


def test_spec_rootless_has_a_user_namespace_with_maps(runtime: Runtime) -> None:
    work = runtime.workspace / "a"
    work.mkdir()
    runtime.ok("spec", "--rootless", cwd=work)
    linux = json.loads((work / "config.json").read_text())["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]
    assert "resources" not in linux
