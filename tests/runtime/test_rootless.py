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
