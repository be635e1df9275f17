"""Containers that are made in one control group at one moment (a race for who moves in)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.errors import CgroupError
from migrate.runtime import cgroup
from tests.oci.driver import Config, Runtime, wait_for_death

CALLERS = 8
ROUNDS = 6


@pytest.fixture
def paths(runtime: Runtime) -> Iterator[dict[str, str]]:
    """The directories of a control group that is not there yet."""
    found = cgroup.resolve(f"/{runtime.new_id()}-shared", "x")
    yield found
    cgroup.kill(found)
    cgroup.destroy(found)


def test_of_creates_that_meet_in_a_group_one_at_most_wins_and_lives(runtime: Runtime) -> None:
    for round_ in range(ROUNDS):

        def share(config: Config, at: int = round_) -> None:
            config["linux"]["cgroupsPath"] = f"/{runtime.prefix}shared{at}"

        bundle = runtime.bundle(change=share)
        names = [runtime.new_id() for _ in range(CALLERS)]
        calls = [
            runtime.popen(
                "run", "-d", "--bundle", str(bundle.path), name,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for name in names
        ]  # fmt: skip
        made = [name for name, call in zip(names, calls, strict=True) if call.wait(60) == 0]
        assert len(made) <= 1
        assert runtime.ids() == made
        for name in made:
            state = json.loads(runtime.ok("state", name).out)
            assert state["status"] == "running"
            runtime.ok("delete", "--force", name)


def test_the_second_claim_of_an_empty_group_is_refused_and_takes_nothing_away(
    paths: dict[str, str],
) -> None:
    held = cgroup.claim(paths)
    try:
        with pytest.raises(CgroupError, match="another container is being made"):
            cgroup.claim(paths)
        assert all(Path(directory).is_dir() for directory in paths.values())
    finally:
        held.close()
    cgroup.claim(paths).close()


def test_a_claim_that_comes_too_late_leaves_who_is_in_alone(paths: dict[str, str]) -> None:
    held = cgroup.claim(paths)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            cgroup.add(paths, stranger.pid)
            held.close()
            with pytest.raises(CgroupError, match="is not empty"):
                cgroup.claim(paths)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_what_was_killed_before_its_claim_owns_no_group(runtime: Runtime) -> None:
    """Its bundle names the group of another container; deleting it must not kill that."""

    def share(config: Config) -> None:
        config["linux"]["cgroupsPath"] = f"/{runtime.prefix}shared"

    owner = runtime.started(runtime.bundle(change=share))
    torn = runtime.root / runtime.new_id()
    torn.mkdir(mode=0o700)
    (torn / "lock").touch()
    (torn / ".config.json.new").write_bytes((owner.bundle.path / "config.json").read_bytes())
    runtime.ok("delete", "--force", torn.name)
    assert owner.status == "running"
    pid = owner.pid
    owner("delete --force")
    wait_for_death(pid)
