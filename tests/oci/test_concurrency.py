"""Many commands at once on one id: one wins, none hangs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .driver import Runtime, cgroups_named, eventually

CALLERS = 16


def all_at_once(runtime: Runtime, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Exit status and standard error of commands started together."""
    running: list[tuple[subprocess.Popen[Any], Path]] = []
    for number, command in enumerate(commands):
        path = runtime.workspace / f"error{number}"
        with path.open("w") as stderr:
            running.append((runtime.popen(*command, stdout=stderr, stderr=stderr), path))
    return [(process.wait(60), path.read_text()) for process, path in running]


def test_of_many_starts_exactly_one_wins(runtime: Runtime) -> None:
    container = runtime.create(runtime.bundle("sh", "-c", "echo once; sleep 99"))
    results = all_at_once(runtime, [["start", container.id]] * CALLERS)
    assert sorted(status for status, _ in results)[:2] == [0, 1]
    assert all(error for status, error in results if status)
    container.wait_for_output("once")
    assert container.written() == "once\n"
    assert container.status == "running"


def test_of_many_creates_exactly_one_wins(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    name = runtime.new_id()
    command = ["create", "--bundle", str(bundle.path), name]
    results = all_at_once(runtime, [command] * CALLERS)
    assert sorted(status for status, _ in results)[:2] == [0, 1]
    assert all("exist" in error or "lock" in error for status, error in results if status)
    assert '"created"' in runtime.ok("state", name).out
    runtime.ok("start", name)


def test_many_containers_are_made_at_once(runtime: Runtime) -> None:
    bundles = [runtime.bundle("true") for _ in range(8)]
    commands = [
        ["run", "--bundle", str(bundle.path), f"{runtime.prefix}many{number}"]
        for number, bundle in enumerate(bundles)
    ]
    results = all_at_once(runtime, commands)
    assert [status for status, _ in results] == [0] * 8, results
    assert runtime.ids() == []


def test_of_many_deletes_none_hangs_and_nothing_is_left(runtime: Runtime) -> None:
    container = runtime.started()
    results = all_at_once(runtime, [["delete", "--force", container.id]] * 8)
    assert 0 in [status for status, _ in results]
    eventually(lambda: runtime.ids() == [], "the container is gone")
    assert cgroups_named(container.id) == []


def test_many_execs_at_once_all_run(runtime: Runtime) -> None:
    container = runtime.started()
    commands = [["exec", container.id, "sh", "-c", f"echo out-{n}"] for n in range(8)]
    results = all_at_once(runtime, commands)
    assert sorted(results) == [(0, f"out-{n}\n") for n in range(8)]


def test_looking_while_a_container_comes_and_goes_never_fails(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    with (runtime.workspace / "looking").open("w") as log:
        script = 'while [ ! -e stop ]; do "$@" list || echo failed; done'
        looking = subprocess.Popen(
            ["sh", "-c", script, "sh", *runtime.argv()],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            cwd=runtime.workspace, env=runtime.environment,
        )  # fmt: skip
        try:
            for _ in range(5):
                runtime.ok("run", "--bundle", str(bundle.path), runtime.new_id())
        finally:
            (runtime.workspace / "stop").touch()
            looking.wait(30)
    assert "failed" not in (runtime.workspace / "looking").read_text()
