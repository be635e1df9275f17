"""hooks: six kinds, their order, what they are told, and what their failure does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .driver import (
    Config,
    Runtime,
    cgroups_named,
    status_fields,
    stray_signals,
)

KINDS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
BEFORE_START = KINDS[:3]
# Of the container's own mount namespace after its root was changed.
INSIDE = "startContainer"


def shell_hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def with_hooks(**hooks: list[dict[str, Any]]) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["hooks"] = hooks

    return change


def logging_hooks(log: Path) -> Callable[[Config], None]:
    """Hooks of all kinds that append their name to `log`, seen as /log inside."""

    def change(config: Config) -> None:
        log.touch()
        config["mounts"].append(
            {"destination": "/log", "type": "bind", "source": str(log), "options": ["bind"]}
        )
        config["hooks"] = {
            kind: [shell_hook(f"echo {kind} >> {'/log' if kind == INSIDE else log}")]
            for kind in KINDS
        }

    return change


def test_all_six_kinds_run_in_the_order_of_the_spec(runtime: Runtime) -> None:
    log = runtime.workspace / "log"
    container = runtime.create(
        runtime.bundle("sh", "-c", "echo process >> /log", change=logging_hooks(log))
    )
    assert log.read_text().split() == BEFORE_START
    container("start")
    container.wait_until("stopped")
    # Whether poststart or the process is first is a race by the specification.
    assert sorted(log.read_text().split()) == sorted([*KINDS[:5], "process"])
    assert log.read_text().split()[:4] == KINDS[:4]
    container("delete")
    assert log.read_text().split()[-1] == "poststop"


def test_hooks_of_a_kind_run_in_their_order(runtime: Runtime) -> None:
    log = runtime.workspace / "log"
    hooks = [shell_hook(f"sleep 0.0{9 - n}; echo {n} >> {log}") for n in range(1, 5)]
    assert runtime.run(runtime.bundle("true", change=with_hooks(createRuntime=hooks))).status == 0
    assert log.read_text().split() == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ],
)
def test_a_hook_reads_the_state_on_its_standard_input(
    runtime: Runtime, kind: str, status: str
) -> None:
    saved = runtime.workspace / "state-of-hook"

    def change(config: Config) -> None:
        saved.touch()
        config["annotations"] = {"key": "value"}
        config["mounts"].append(
            {"destination": "/saved", "type": "bind", "source": str(saved), "options": ["bind"]}
        )
        target = "/saved" if kind == INSIDE else saved
        config["hooks"] = {kind: [shell_hook(f"cat > {target}")]}

    bundle = runtime.bundle("sleep", "99", change=change)
    container = runtime.create(bundle)
    if kind not in BEFORE_START:
        container("start")
    if kind == "poststop":
        container("delete --force")
    state = json.loads(saved.read_text())
    assert state["id"] == container.id
    assert state["status"] == status
    assert state["bundle"] == str(bundle.path)
    assert state["ociVersion"].startswith("1.")
    assert state["annotations"] == {"key": "value"}
    if kind in ("prestart", "createRuntime"):
        assert state["pid"] == container.pid


def test_hooks_run_in_the_namespaces_the_spec_says(runtime: Runtime) -> None:
    out = runtime.workspace / "out"
    out.mkdir()
    out.chmod(0o777)

    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/out", "type": "bind", "source": str(out), "options": ["bind"]}
        )
        config["hooks"] = {
            kind: [
                shell_hook(
                    f"(readlink /proc/self/ns/mnt; readlink /proc/self/ns/net) > "
                    f"{'/out' if kind == INSIDE else out}/{kind}"
                )
            ]
            for kind in KINDS
        }

    container = runtime.started(runtime.bundle(change=change))
    ours = [os.readlink("/proc/self/ns/mnt"), os.readlink("/proc/self/ns/net")]
    theirs = [os.readlink(f"/proc/{container.pid}/ns/{n}") for n in ("mnt", "net")]
    container("delete --force")
    for kind in ("prestart", "createRuntime", "poststart", "poststop"):
        assert (out / kind).read_text().split() == ours, kind
    for kind in ("createContainer", "startContainer"):
        assert (out / kind).read_text().split() == theirs, kind


def test_a_hook_gets_its_own_arguments_and_environment(runtime: Runtime) -> None:
    log = runtime.workspace / "log"
    hook = {
        "path": "/bin/sh",
        "args": ["a name", "-c", f'echo "$0|$1|$A|$HOME|$PWD" > {log}', "zero", "one two"],
        "env": ["A=with space"],
    }
    runtime.run(runtime.bundle("true", change=with_hooks(createRuntime=[hook])))
    assert log.read_text().startswith("zero|one two|with space||")


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_hook_that_fails_before_the_start_undoes_the_create(runtime: Runtime, kind: str) -> None:
    bundle = runtime.bundle(change=with_hooks(**{kind: [shell_hook("echo why >&2; exit 3")]}))
    container = runtime.new_id()
    error = runtime.refuses("create", "--bundle", str(bundle.path), container)
    assert "hook" in error
    assert "why" in error
    assert runtime.ids() == []
    assert cgroups_named(container) == []


def test_a_failed_create_runs_the_poststop_hooks(runtime: Runtime) -> None:
    log = runtime.workspace / "log"
    change = with_hooks(
        createRuntime=[shell_hook("exit 1")], poststop=[shell_hook(f"echo stopped > {log}")]
    )
    bundle = runtime.bundle(change=change)
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert log.read_text() == "stopped\n"


def test_a_start_container_hook_that_fails_stops_the_container(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "99", change=with_hooks(startContainer=[shell_hook("exit 3")]))
    container = runtime.create(bundle)
    runtime("start", container.id)
    container.wait_until("stopped")


def test_a_poststart_hook_that_fails_stops_the_container(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "99", change=with_hooks(poststart=[shell_hook("exit 3")]))
    container = runtime.create(bundle)
    assert "hook" in runtime.refuses("start", container.id)
    container.wait_until("stopped")


def test_a_poststop_hook_that_fails_does_not_keep_the_container(runtime: Runtime) -> None:
    bundle = runtime.bundle(change=with_hooks(poststop=[shell_hook("exit 3")]))
    container = runtime.create(bundle)
    runtime("delete", "--force", container.id)
    assert runtime.ids() == []


def test_a_hook_that_takes_too_long_is_ended(runtime: Runtime) -> None:
    hook = shell_hook("exec sleep 77", timeout=1)
    bundle = runtime.bundle(change=with_hooks(createRuntime=[hook]))
    began = time.monotonic()
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert time.monotonic() - began < 20
    assert "hook" in error
    assert runtime.ids() == []


def test_a_hook_that_is_missing_is_named(runtime: Runtime) -> None:
    change = with_hooks(createRuntime=[{"path": "/no/such/hook"}])
    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "/no/such/hook" in error


def test_hooks_have_clean_signals(runtime: Runtime) -> None:
    log = runtime.workspace / "log"
    # A shell may install handlers of its own: it hands over to cat.
    hook = shell_hook(f"exec cat /proc/self/status > {log}")
    runtime.run(runtime.bundle("true", change=with_hooks(createRuntime=[hook])))
    fields = status_fields(log.read_text())
    assert stray_signals(fields) == {}


@pytest.mark.parametrize(
    "hook", [{"path": "relative/path"}, {"args": ["x"]}, {"path": "/bin/true", "timeout": 0}]
)
def test_a_hook_that_makes_no_sense_is_refused(runtime: Runtime, hook: dict[str, Any]) -> None:
    bundle = runtime.bundle(change=with_hooks(createRuntime=[hook]))
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []
