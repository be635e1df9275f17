"""A fault in every function of what runs inside, and that process killed at any moment.

A forked child that meets an exception must not go on as its parent would: run its clean-up,
write its messages, remove its files. The fault is an exception nobody foresees, put at the
head of one function after the other of a copy of the program.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.attacks.conftest import COMMAND
from tests.attacks.test_every_step import assert_nothing_is_left
from tests.oci.driver import PROJECT, Bundle, Config, Runtime

INSIDE = Path("migrate/runtime/init")
MODULES = sorted(path.name for path in (PROJECT / INSIDE).glob("*.py"))
MOMENTS = 12
# About what a create takes on an idle machine, spread over which the stage is killed.
SPAN_SECONDS = 0.15
HOOK = {"path": "/bin/true", "args": ["true"]}


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Every function's name, and the line its body begins at, after the docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            # The process has nobody to tell before the first line of `main`.
            if body and node.name != "main" and not _is_generator(node):
                yield node.name, body[0].lineno


def _is_generator(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Yield | ast.YieldFrom) for each in ast.walk(node))


def with_fault(source: str, line: int) -> str:
    """The source with an exception raised right before a line."""
    lines = source.splitlines(keepends=True)
    indent = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
    lines.insert(line - 1, f'{indent}raise RuntimeError("a fault of the test")\n')
    return "".join(lines)


@pytest.fixture
def copied(runtime: Runtime) -> Runtime:
    """The runtime as a copy of its own, whose sources a test may change."""
    top = runtime.workspace / "program"
    shutil.copytree(PROJECT / "migrate", top / "migrate")
    command = top / "command"
    command.write_text(Path(COMMAND).read_text().replace(f'"{PROJECT}"', f'"{top}"'))
    command.chmod(0o755)
    return replace(runtime, command=str(command))


@pytest.fixture
def bundle(copied: Runtime) -> Bundle:
    """A configuration that goes most of the ways there are."""

    def change(config: Config) -> None:
        config["hooks"] = {kind: [HOOK] for kind in ("createContainer", "startContainer")}
        config["linux"]["devices"] = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]

    return copied.bundle(change=change)


@pytest.mark.parametrize("module", MODULES)
def test_a_fault_in_any_function_of_the_stage_is_one_line_and_leaves_nothing(
    copied: Runtime, bundle: Bundle, module: str
) -> None:
    path = Path(copied.command).parent / INSIDE / module
    source = path.read_text()
    for name, line in functions(source):
        path.write_text(with_fault(source, line))
        # Two sources of one size within a second are one to the interpreter.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
        container = copied.new_id()
        result = copied("run", "-d", "--bundle", str(bundle.path), container,
                        output=bundle.path / "output")  # fmt: skip
        where = f"{module}:{name}: {result}"
        if result.status:
            assert result.err.startswith("migrate: "), where
            assert result.err.count("\n") == 1, where
        else:  # not on this container's way
            copied.ok("delete", "--force", container)
        assert (bundle.path / "output").read_text() == "", where
        assert_nothing_is_left(copied, container)
    path.write_text(source)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_stage_killed_at_any_moment_is_said_and_leaves_nothing(
    copied: Runtime, bundle: Bundle, depth: int
) -> None:
    """Depth 1 is what `create` started, 2 what that has forked."""
    for moment in range(MOMENTS):
        name = copied.new_id()
        errors = bundle.path / "errors"
        with errors.open("w") as stderr:
            process = copied.popen(
                "create", "--bundle", str(bundle.path), name,
                stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        time.sleep(SPAN_SECONDS * moment / MOMENTS)
        victim: int | None = process.pid
        for _ in range(depth):
            victim = victim and _child_of(victim)
        if victim:
            os.kill(victim, 9)
        status = process.wait(60)
        said = errors.read_text()
        if status:
            assert said.startswith("migrate: "), said
            assert said.count("\n") == 1, said
            assert copied.ids() == []
        copied.ok("delete", "--force", name)
        assert_nothing_is_left(copied, name)


def _child_of(pid: int) -> int | None:
    """The first child of a process, if it has one that is still there."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None
