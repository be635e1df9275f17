"""Orders that must not be obeyed: annotations, cgroup paths, names for numbers, hooks that stay."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.oci.driver import (
    CGROUP_ROOT,
    Config,
    Runtime,
    eventually,
    is_alive,
    status_fields,
    wait_for_death,
)


def test_annotations_that_other_tools_obey_run_nothing(runtime: Runtime) -> None:
    canary = runtime.workspace / "canary"
    script = runtime.workspace / "script"
    script.write_text(f"#!/bin/sh\ntouch {canary}\n")
    script.chmod(0o755)
    settings = runtime.workspace / "criu.conf"
    settings.write_text(f"action-script {script}\nlog-file {runtime.workspace}/criu-was-here\n")

    def change(config: Config) -> None:
        config["annotations"] = {
            "org.criu.config": str(settings),
            "run.oci.handler": str(script),
            "run.oci.hooks.stdout": str(canary),
            "run.oci.hooks.stderr": str(canary),
            "run.oci.mount_context_type": str(script),
            "run.oci.seccomp.receiver": str(canary),
            "run.oci.systemd.force_cgroup_v1": str(runtime.workspace),
            "module.wasm.image/variant": "compat",
        }

    bundle = runtime.bundle("sh", "-c", "exec >/dev/null 2>&1; sleep 99", change=change)
    container = runtime.new_id()
    runtime.ok("run", "-d", "--bundle", str(bundle.path), container, output=Path(os.devnull))
    images, work = runtime.workspace / "images", runtime.workspace / "work"
    options = ["--image-path", str(images), "--work-path", str(work)]
    runtime.ok("checkpoint", "--leave-running", *options, container)
    assert not canary.exists()
    assert not list(runtime.workspace.rglob("criu-was-here"))


@pytest.mark.parametrize(
    "path", ["../escape", "/../escape", "/a/../../escape", "a/../../escape", "..", "/a/..", "/."]
)
def test_a_cgroup_path_that_leads_up_is_refused(runtime: Runtime, path: str) -> None:
    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = path

    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "$.linux.cgroupsPath" in error
    assert not list(CGROUP_ROOT.glob("*/escape"))


@pytest.mark.parametrize("path", ["/", "", "//", "/./"])
def test_a_container_never_lives_in_the_top_group(runtime: Runtime, path: str) -> None:
    """To delete it would be to kill whoever lives there too."""

    def change(config: Config) -> None:
        config["linux"]["cgroupsPath"] = path

    bundle = runtime.bundle(change=change)
    name = runtime.new_id()
    if runtime("create", "--bundle", str(bundle.path), name, output=bundle.path / "out").status:
        return
    pid = int(runtime.ok("ps", "--format", "json", name).out.strip("[]\n"))
    mine = Path("/proc/self/cgroup").read_text()
    assert Path(f"/proc/{pid}/cgroup").read_text() != mine
    runtime.ok("delete", "--force", name)


@pytest.mark.parametrize("user", ["root", "root:root", "0x0", "1000:root", "-1", "worker"])
def test_a_user_by_name_is_not_taken_for_number_zero(runtime: Runtime, user: str) -> None:
    container = runtime.started()
    result = runtime("exec", f"--user={user}", container.id, "id", "-u")
    assert result.status != 0, str(result)
    assert result.out == ""


def test_exec_with_a_capability_leaves_the_inheritable_set_empty(runtime: Runtime) -> None:
    """CVE-2022-29162."""
    container = runtime.started()
    for user in ("0", "1000"):
        out = runtime.ok(
            "exec", "--user", user, "--cap", "CAP_NET_RAW", container.id, "cat", "/proc/self/status"
        ).out
        assert int(status_fields(out)["CapInh"], 16) == 0


def test_kill_of_an_unknown_signal_is_an_error_and_no_success(runtime: Runtime) -> None:
    container = runtime.started()
    for name in ("FOO", "SIG", "SIGSIG", "KILL9", "99999"):
        result = runtime("kill", container.id, name)
        assert result.status != 0, str(result)
    assert container.status == "running"


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def test_a_hook_that_forks_and_stays_is_ended_in_its_time(runtime: Runtime) -> None:
    pids = runtime.workspace / "pids"
    script = (
        f"sleep 71 & echo $! >> {pids}; (trap '' TERM; exec sleep 72) & echo $! >> {pids}; wait"
    )

    def change(config: Config) -> None:
        config["hooks"] = {"createRuntime": [hook(script, timeout=1)]}

    bundle = runtime.bundle(change=change)
    began = time.monotonic()
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert time.monotonic() - began < 10
    for pid in map(int, pids.read_text().split()):
        wait_for_death(pid)


def test_a_hook_that_leaves_a_child_with_its_output_does_not_hold_up_create(
    runtime: Runtime,
) -> None:
    pids = runtime.workspace / "pids"

    def change(config: Config) -> None:
        config["hooks"] = {"createRuntime": [hook(f"sleep 30 & echo $! > {pids}")]}

    began = time.monotonic()
    runtime.create(runtime.bundle(change=change))
    assert time.monotonic() - began < 10
    pid = int(pids.read_text())
    if is_alive(pid):
        os.kill(pid, 9)


def test_a_hook_that_floods_its_output_does_not_flood_the_error(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {"createRuntime": [hook("yes flood | head -c 20000000 >&2; exit 1")]}

    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert len(error) < 20000


# Nobody but the command that made the container, whoever the parent turns out to be.
KILL_THE_PARENT = (
    "tr '\\0' ' ' < /proc/$PPID/cmdline | grep -q 'migrate .*create' && kill -9 $PPID; sleep 0.1"
)


def test_a_hook_that_kills_its_parent_leaves_a_container_that_can_be_deleted(
    runtime: Runtime,
) -> None:
    def change(config: Config) -> None:
        config["hooks"] = {"createRuntime": [hook(KILL_THE_PARENT)]}

    bundle = runtime.bundle(change=change)
    name = runtime.new_id()
    assert runtime("create", "--bundle", str(bundle.path), name).status != 0
    runtime.ok("delete", "--force", name)
    eventually(lambda: runtime.ids() == [])
