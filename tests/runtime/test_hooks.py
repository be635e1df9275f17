"""The six kinds of hooks: when and where they run, and what their failure does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import HookError
from migrate.runtime import hooks, state
from migrate.runtime.spec import decode
from tests.runtime.conftest import Config, Failed, Runner, eventually

pytestmark = pytest.mark.root


def hook(script: str, **changes: Any) -> dict[str, Any]:
    """A hook that runs a script of the host's shell."""
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", script],
        "env": ["PATH=/usr/bin:/bin"],
    } | changes


def with_hooks(**kinds: Any) -> Any:
    """A change that sets hooks."""

    def change(config: Config) -> None:
        config["hooks"] = {
            kind: made if isinstance(made, list) else [made] for kind, made in kinds.items()
        }
        config["annotations"] = {"a": "b"}

    return change


def test_they_run_in_their_order_in_their_namespaces_with_the_state(
    runner: Runner, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    outside = f'cat >>{log}; echo " $0 $(readlink /proc/self/ns/mnt)" >>{log}'
    kinds = ("prestart", "createRuntime", "createContainer")
    made: dict[str, Any] = {kind: hook(outside, args=["sh", "-c", outside, kind]) for kind in kinds}
    made["poststart"] = hook(outside, args=["sh", "-c", outside, "poststart"])
    inside = 'cat >/tmp/start; echo " startContainer $(readlink /proc/self/ns/mnt)" >>/tmp/start'
    made["startContainer"] = hook(inside, env=["PATH=/bin"])
    runner.bundle("sh", "-c", "cat /tmp/start; sleep 100", change=with_hooks(**made))
    record = runner.create()
    runner.start(record, wait=False)
    eventually(lambda: "startContainer" in runner.text())
    mine, theirs = (os.readlink(f"/proc/{pid}/ns/mnt") for pid in ("self", record["pid"]))
    entries = [_entry(line) for line in log.read_text().splitlines()]
    entries.insert(3, _entry(runner.text().splitlines()[-1]))
    seen = [(name, said["status"], said["pid"], place) for said, name, place in entries]
    assert seen == [
        ("prestart", "creating", record["pid"], mine),
        ("createRuntime", "creating", record["pid"], mine),
        ("createContainer", "creating", 1, theirs),
        ("startContainer", "created", 1, theirs),
        ("poststart", "running", record["pid"], mine),
    ]
    for said, _, _ in entries:
        assert said["id"] == record["id"]
        assert said["bundle"] == record["bundle"]
        assert said["annotations"] == {"a": "b"}
        assert said["ociVersion"] == "1.0.2-dev"


def _entry(line: str) -> tuple[dict[str, Any], str, str]:
    text, name, place = line.rsplit(" ", 2)
    return json.loads(text), name, place


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_of_create_leaves_nothing(runner: Runner, kind: str) -> None:
    runner.bundle(change=with_hooks(**{kind: hook("echo because of me >&2; exit 7")}))
    with pytest.raises(Failed, match=r"failed with exit status 7: because of me"):
        runner.create()
    assert runner.store.ids() == []


def test_a_failing_hook_of_start_keeps_the_payload_from_running(runner: Runner) -> None:
    change = with_hooks(startContainer=hook("echo no; exit 1"))
    runner.bundle("sh", "-c", "echo ran", change=change)
    record = runner.create()
    with pytest.raises(Failed, match=r"hook startContainer\[0\] /bin/sh failed"):
        runner.start(record)
    assert "ran" not in runner.text()


def test_a_failing_poststart_hook_ends_the_container(runner: Runner) -> None:
    runner.bundle(change=with_hooks(poststart=hook("exit 1")))
    record = runner.create()
    with pytest.raises(Failed, match="poststart"):
        runner.start(record)
    assert state.status(runner.store.load(record["id"])) == "stopped"


def test_a_hook_out_of_time_is_killed_with_all_it_started(runner: Runner, tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! >{tmp_path}/child; wait"
    runner.bundle(change=with_hooks(createRuntime=hook(script, timeout=1)))
    began = time.monotonic()
    with pytest.raises(Failed, match="did not end within 1 s and was killed"):
        runner.create()
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    eventually(lambda: not Path(f"/proc/{child}/exe").exists())


def test_a_hook_that_leaves_a_process_behind_is_not_waited_for(
    runner: Runner, tmp_path: Path
) -> None:
    script = f"sleep 1000 & echo $! >{tmp_path}/child"
    runner.bundle(change=with_hooks(createRuntime=hook(script)))
    began = time.monotonic()
    runner.create()
    assert time.monotonic() - began < 10
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_what_a_hook_says_is_kept_short_and_its_input_may_be_ignored(runner: Runner) -> None:
    script = (
        "exec 0<&-; i=0; while [ $i -lt 2000 ]; do echo $i 0123456789; i=$((i+1)); done; exit 1"
    )
    runner.bundle(change=with_hooks(createRuntime=hook(script)))
    with pytest.raises(Failed) as caught:
        runner.create()
    message = caught.value.reply["error"]
    assert len(message) < 6000
    assert message.endswith("1999 0123456789")


def test_a_hook_that_ends_without_reading_its_input_costs_nothing(runner: Runner) -> None:
    """Without a pid namespace of its own, a stage is not safe from SIGPIPE."""

    def change(config: Config) -> None:
        with_hooks(
            createRuntime=[{"path": "/bin/true"}] * 3, createContainer=[{"path": "/bin/true"}] * 3
        )(config)
        config["annotations"] = {"long": "x" * (1 << 20)}
        config["linux"]["namespaces"] = [{"type": "mount"}]
        config.pop("hostname")

    runner.bundle(change=change)
    record = runner.create()
    assert state.status(record) == "created"


_MASKS = ("SigBlk", "SigIgn", "SigCgt")


def test_signals_and_descriptors_of_hooks_are_clean(runner: Runner, tmp_path: Path) -> None:
    script = f"cat /proc/self/status >{tmp_path}/seen; exec ls -l /proc/self/fd >>{tmp_path}/seen"
    kinds = {"createRuntime": hook(script), "createContainer": hook(script.replace("seen", "also"))}
    runner.bundle(change=with_hooks(**kinds))
    runner.create()
    for name in ("seen", "also"):
        text = (tmp_path / name).read_text()
        signals = [line.split()[1] for line in text.splitlines() if line[:6] in _MASKS]
        assert signals == ["0" * 16] * 3
        assert text.count("->") == 4, text  # with the directory that ls itself opens


def test_poststop_hooks_are_told_that_it_has_stopped(runner: Runner, tmp_path: Path) -> None:
    bundle = runner.bundle(change=with_hooks(poststop=hook(f"cat >{tmp_path}/said")))
    record = runner.create()
    spec = decode((bundle / "config.json").read_bytes(), "config.json")
    hooks.run("poststop", spec, record, "stopped", 0)
    said = json.loads((tmp_path / "said").read_text())
    assert (said["status"], "pid" in said) == ("stopped", False)


def test_a_hook_that_is_not_there_is_named(runner: Runner) -> None:
    runner.bundle(change=with_hooks(prestart={"path": "/nosuch/hook"}))
    with pytest.raises(Failed, match=r"hook prestart\[0\] /nosuch/hook: no such file") as caught:
        runner.create()
    assert caught.value.reply["kind"] == HookError.__name__
