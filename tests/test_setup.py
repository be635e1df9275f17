"""What scripts/setup leaves behind is what the rest of the project relies on."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.folders import CHECKOUT

COMMAND = CHECKOUT / ".venv" / "bin" / "migrate"


def setup() -> subprocess.CompletedProcess[str]:
    """Run the script as a make target does."""
    return subprocess.run(
        [CHECKOUT / "scripts" / "setup"], check=True, capture_output=True, text=True, timeout=60
    )


@pytest.mark.root
def test_a_second_run_needs_no_network_and_only_says_what_it_found() -> None:
    setup()  # the checkout may have changed since the first
    said = setup().stdout
    assert [line.split()[:2] for line in said.splitlines()] == [
        [step, "found"] for step in ("packages", "criu", "venv", "command", "pipes")
    ]


@pytest.mark.root
def test_runs_at_once_wait_for_each_other() -> None:
    runs = [
        subprocess.Popen([CHECKOUT / "scripts" / "setup"], stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [run.wait(60) for run in runs] == [0, 0, 0]


@pytest.mark.criu
def test_criu_is_new_enough_and_works_on_this_kernel(criu: str) -> None:
    version = subprocess.run([criu, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"^Version: (\d+)\.(\d+)", version)
    assert found is not None
    assert (int(found[1]), int(found[2])) >= (4, 2)
    subprocess.run([criu, "check"], check=True, capture_output=True)


@pytest.mark.criu
def test_pycriu_is_of_criu_s_version(criu: str) -> None:
    from importlib.metadata import version

    said = subprocess.run([criu, "--version"], check=True, capture_output=True, text=True).stdout
    assert said.split("\n", 1)[0] == f"Version: {version('pycriu')}"


def test_the_command_works_from_any_folder_with_an_empty_environment(tmp_path: Path) -> None:
    trap = "raise SystemExit('the working directory was imported from')"
    for name in ("json.py", "click.py", "migrate.py"):
        (tmp_path / name).write_text(trap)
    said = subprocess.run(
        [COMMAND, "--version"], check=True, cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert "migrate" in said.stdout


def test_the_command_starts_by_the_system_s_interpreter_alone() -> None:
    first = COMMAND.read_text().split("\n", 1)[0]
    assert first == "#!/usr/bin/python3 -IS"


def test_every_package_is_pinned() -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[ <>=]", one)[0] for one in wanted} - {"pycriu"}  # made by setup itself
    assert names <= pins


def test_every_make_target_of_the_help_is_there() -> None:
    """The Makefile is the one entry to every task."""
    text = (CHECKOUT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "bench", "clean"} <= targets
    assert (CHECKOUT / ".ci" / "run").read_text().endswith("exec make test\n")
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
