"""State files that are torn, broken or forged: shown as unknown, deletable, never obeyed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.oci.driver import (
    Container,
    Runtime,
    is_alive,
    killed_at_end,
    wait_for_death,
)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path) -> None:
    target = path.parents[2] / "precious"
    target.write_text("{}")
    path.unlink()
    path.symlink_to(target)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def change_version(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "schema_version": 999}))


def change_id(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "id": "../../somebody"}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "null": lambda path: path.write_text("null"),
    "list": lambda path: path.write_text("[]"),
    "number": lambda path: path.write_text("1"),
    "object": lambda path: path.write_text("{}"),
    "half": cut_in_half,
    "binary": lambda path: path.write_bytes(os.urandom(512)),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "missing": lambda path: path.unlink(),
    "directory": replace_by_directory,
    "link": replace_by_link,
    "fifo": replace_by_fifo,
    "deep": lambda path: path.write_text("[" * 100_000),
    "version": change_version,
    "id": change_id,
}


def state_file(container: Container) -> Path:
    return container.runtime.root / container.id / "state.json"


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_broken_state_file_is_listed_refused_and_deleted(runtime: Runtime, damage: str) -> None:
    healthy = runtime.create()
    broken = runtime.started()
    pid = broken.pid
    DAMAGES[damage](state_file(broken))
    rows = {line.split()[0]: line.split() for line in runtime.ok("list").out.splitlines()[1:]}
    assert rows[healthy.id][2] == "created"
    assert "unknown" in rows[broken.id]
    assert broken.id in runtime.ok("list", "-q").out.split()
    for verb in ("state", "start", "kill", "pause", "delete"):
        runtime.refuses(verb, broken.id)
    runtime.ok("delete", "--force", broken.id)
    assert runtime.ids() == [healthy.id]
    assert healthy.status == "created"
    precious = runtime.workspace / "precious"
    assert not precious.exists() or precious.read_text() == "{}"
    # Of what it cannot read it may not have known the processes; its cgroup tells them.
    wait_for_death(pid)


@pytest.mark.parametrize("name", ["config.json", "lock"])
def test_the_other_files_may_be_missing_too(runtime: Runtime, name: str) -> None:
    container = runtime.started()
    (runtime.root / container.id / name).unlink(missing_ok=True)
    runtime.ok("list")
    runtime.ok("delete", "--force", container.id)
    assert runtime.ids() == []


def test_strange_entries_of_the_state_root_disturb_nobody(runtime: Runtime, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    container = runtime.create()
    (runtime.root / "file").write_text("x")
    (runtime.root / "empty").mkdir()
    (runtime.root / "link").symlink_to(elsewhere)
    (runtime.root / "with space").mkdir()
    assert container.id in runtime.ok("list", "-q").out
    runtime("delete", "--force", "empty")
    runtime("delete", "--force", "link")
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
    for name in ("file", "link"):
        (runtime.root / name).unlink(missing_ok=True)
    for name in ("empty", "with space"):
        path = runtime.root / name
        if path.exists():
            path.rmdir()


@pytest.fixture
def foreigner() -> Iterator[int]:
    """A process of somebody else."""
    with killed_at_end(subprocess.Popen(["sleep", "600"])) as process:
        yield process.pid


def forge(container: Container, **values: Any) -> None:
    path = state_file(container)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("ticks", ["own", 0, -1, 1])
def test_a_pid_that_now_is_somebody_elses_is_never_signalled(
    runtime: Runtime, foreigner: int, ticks: int | str
) -> None:
    container = runtime.started()
    own_pid = container.pid
    values: dict[str, Any] = {"pid": foreigner}
    if ticks != "own":
        values["pid_start_ticks"] = ticks
    # The start time has a resolution of a hundredth of a second.
    time.sleep(0.02)
    forge(container, **values)
    for call in (["kill", container.id, "KILL"], ["kill", "--all", container.id, "KILL"],
                 ["delete", container.id], ["delete", "--force", container.id]):  # fmt: skip
        runtime(*call)
        assert is_alive(foreigner), call
    assert runtime.ids() == []
    wait_for_death(own_pid)


# Run as the first process of a pid namespace: whatever the runtime signals is in there.
NONSENSE = """
migrate() { "$COMMAND" --root "$ROOT" "$@"; }
sleep 600 & foreigner=$!
migrate run -d --bundle "$BUNDLE" "$ID" >/dev/null </dev/null || exit 1
sed -i 's/"pid": *[0-9]*/"pid":'"$PID"'/' "$ROOT/$ID/state.json"
migrate kill "$ID" KILL
migrate kill --all "$ID" KILL
migrate delete --force "$ID" || echo not deleted
kill -0 $foreigner && echo survived
kill $foreigner
"""


@pytest.mark.parametrize("pid", ["1", "-1", "0", "-2", "1099511627776", '"1"'])
def test_a_pid_that_makes_no_sense_signals_nobody(runtime: Runtime, pid: str) -> None:
    values = {
        "COMMAND": runtime.command, "ROOT": str(runtime.root), "ID": runtime.new_id(),
        "BUNDLE": str(runtime.bundle().path), "PID": pid,
    }  # fmt: skip
    output = runtime.workspace / "output"
    with output.open("w") as stdout:
        subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", NONSENSE],
            env={**runtime.environment, **values}, stdout=stdout, stderr=stdout, check=False,
            timeout=60,
        )  # fmt: skip
    assert output.read_text().endswith("survived\n"), output.read_text()
    assert "not deleted" not in output.read_text()
    assert runtime.ids() == []


def test_a_record_of_another_boot_is_stopped_whatever_its_pid(
    runtime: Runtime, foreigner: int
) -> None:
    container = runtime.started()
    before = json.loads(state_file(container).read_text())
    forge(container, boot_id="00000000-0000-0000-0000-000000000000", pid=foreigner)
    assert container.status == "stopped"
    assert is_alive(foreigner)
    forge(container, **before)
    runtime.ok("delete", "--force", container.id)
