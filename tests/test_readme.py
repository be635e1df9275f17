"""What the README tells people to type works, in the order in which it says it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.folders import CHECKOUT
from tests.support.hosts import Site

README = (CHECKOUT / "README.md").read_text()


def console_commands() -> list[str]:
    """Return every command of the README's `console` blocks."""
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [
        line.removeprefix("$ ")
        for block in blocks
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def test_the_walk_through_works_word_for_word(hosts: Site) -> None:
    script = "set -ex\n" + "\n".join(console_commands()) + "\n"
    try:
        done = hosts.host1.run(["sh", "-c", script], timeout_seconds=60)
        assert "mybusybox" in done.stdout
        assert hosts.host1.run(["migrate", "list", "-q"]).stdout == ""
        assert hosts.host2.run(["migrate", "list", "-q"]).stdout == ""
    finally:
        for host in (hosts.host1, hosts.host2):
            host.run(["migrate", "delete", "--force", "mybusybox"], check=False)
            host.run(["sh", "-c", "rm -rf /srv/*"])


@pytest.mark.hosts
def test_make_demo_moves_a_container_and_leaves_nothing() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "demo"],
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none repeated, none missing" in done.stdout
    assert "no longer has it" in done.stdout


@pytest.mark.timeout(300)  # it measures, also where others keep the processors busy
@pytest.mark.hosts
def test_make_bench_measures_a_move_and_the_lifecycle(tmp_path: Path) -> None:
    options = f"BENCH=--memory 0 --runs 1 --results {tmp_path}"
    done = subprocess.run(
        ["make", "--no-print-directory", "bench", options],
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "busybox, ratio" in done.stdout
    assert "five commands together" in done.stdout
    assert "podman run" in done.stdout
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_every_command_named_in_the_readme_exists() -> None:
    table = re.search(r"^\| command \|.*?(?=\n\n)", README, re.MULTILINE | re.DOTALL)
    assert table is not None
    named = set(
        re.findall(
            r"`([a-z]+)`", "\n".join(line.split("|")[1] for line in table[0].splitlines()[2:])
        )
    )
    for command in named:
        subprocess.run(
            [CHECKOUT / ".venv/bin/migrate", command, "--help"], check=True, capture_output=True
        )


def test_every_make_target_named_in_the_readme_exists() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
