"""A container made by a user without privileges: what `spec --rootless` is for."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from migrate.runtime.spec import default_spec
from tests.runtime.conftest import DRIVER, PYTHON, Runner, eventually

NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


@pytest.fixture
def rootless(runner: Runner) -> Runner:
    """A bundle, a state root and a checkout that nobody may use."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if subprocess.run([*AS_NOBODY, PYTHON, "-c", f"open({str(DRIVER)!r})"], check=False).returncode:
        pytest.skip("the checkout is closed to other users")
    for path in [runner.folder, *runner.folder.parents][:3]:
        path.chmod(0o755)
    os.chown(runner.folder, NOBODY, NOBODY)
    config: Any = default_spec(rootless=True, uid=NOBODY, gid=NOBODY)
    config["process"].update(terminal=False, args=["sh", "-c", "id -u; exec sleep 100"])
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    (runner.folder / "bundle" / "config.json").write_text(json.dumps(config))
    runner.output.write_bytes(b"")
    os.chown(runner.output, NOBODY, NOBODY)
    return runner


def call(runner: Runner, verb: str, **request: Any) -> Any:
    """What the driver replies to nobody."""
    process, reply = runner.popen(verb, prefix=AS_NOBODY, **request)
    assert process.wait(30) == 0, runner.text()
    said = json.loads(reply.read_text())
    assert "error" not in said, said
    return said["value"]


def test_it_is_made_entered_and_taken_away_without_a_privilege(rootless: Runner) -> None:
    name = f"runtime-{os.getpid()}-rootless"
    record = call(rootless, "create", name=name, bundle=str(rootless.folder / "bundle"))
    try:
        assert record["cgroup"] == {}
        call(rootless, "start", name=name)
        eventually(lambda: rootless.text() == "0\n")
        asked = {"args": ["cat", "/proc/self/uid_map"], "cwd": "/", "env": ["PATH=/bin"]}
        assert call(rootless, "exec", name=name, process=asked) == 0
        assert rootless.text().split()[1:] == ["0", str(NOBODY), "1"]
    finally:
        os.kill(record["pid"], 9)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_its_system_calls_are_filtered_without_a_privilege(
    rootless: Runner, *, no_new_privileges: bool
) -> None:
    # Loading a filter without no_new_privs takes CAP_SYS_ADMIN in the user namespace only.
    path = rootless.folder / "bundle" / "config.json"
    config: Any = json.loads(path.read_text())
    config["process"]["noNewPrivileges"] = no_new_privileges
    config["process"]["args"] = ["sh", "-c", "mkdir /tmp/made || echo kept; exec sleep 100"]
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    path.write_text(json.dumps(config))
    name = f"runtime-{os.getpid()}-filtered"
    record = call(rootless, "create", name=name, bundle=str(path.parent))
    try:
        call(rootless, "start", name=name)
        eventually(lambda: "kept" in rootless.text())
        asked = {
            "args": ["mkdir", "/tmp/made"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "noNewPrivileges": no_new_privileges,
        }
        assert call(rootless, "exec", name=name, process=asked) == 1
        assert rootless.text().count("Operation not permitted") == 2
    finally:
        os.kill(record["pid"], 9)
