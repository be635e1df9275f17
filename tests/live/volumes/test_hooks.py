"""Hooks of a container that moves: whose are run, where and when."""

from __future__ import annotations

import json
from typing import Any

from tests.live.moving import BUNDLE, ID, Moved
from tests.support.bundle import Config
from tests.support.hosts import Host

HOOK = "/srv/hook"
LOG = "/srv/hooks.log"


def put_hook(host: Host) -> None:
    """Make a hook that notes what it is called with."""
    host.folder(HOOK).write_text(f'#!/bin/sh\necho "$1 $(cat)" >> {LOG}\n')
    host.folder(HOOK).chmod(0o755)


def hook(word: str) -> list[dict[str, Any]]:
    return [{"path": HOOK, "args": [HOOK, word]}]


def noted(host: Host) -> list[tuple[str, str, str]]:
    """Return the word, status and bundle of each call on a host."""
    path = host.folder(LOG)
    lines = path.read_text().splitlines() if path.exists() else []
    states = [(word, json.loads(state)) for word, _, state in (s.partition(" ") for s in lines)]
    return [(word, state["status"], state["bundle"]) for word, state in states]


def create(container: Moved) -> None:
    put_hook(container.host1)

    def change(config: Config) -> None:
        config["hooks"] = {"createRuntime": hook("made"), "poststop": hook("ended")}

    container.create(change=change)


def test_hooks_go_along_and_only_those_of_the_end_are_run(unmade: Moved) -> None:
    create(unmade)
    checked = unmade.host1.run(["migrate", "check", ID, "--to", "host2"])
    assert f"createRuntime hook {HOOK} is not run on host2" in checked.stdout
    assert f"poststop hook {HOOK} is not on host2" in checked.stdout
    put_hook(unmade.host2)
    unmade.live()
    unmade.must_run_on("host2")
    assert noted(unmade.host2) == []
    assert noted(unmade.host1) == [
        ("made", "creating", BUNDLE),
        ("ended", "stopped", BUNDLE),
    ]
    unmade.host2.run(["migrate", "delete", "--force", ID])
    assert noted(unmade.host2) == [("ended", "stopped", BUNDLE)]


def mapped(container: Moved) -> list[str]:
    """Return the options that give host2 hooks of its own."""
    hooks = {"createRuntime": hook("arrived"), "poststop": hook("left")}
    (container.host1.folder("/srv") / "map.json").write_text(json.dumps({"hooks": hooks}))
    return ["--map", "/srv/map.json"]


def test_the_hooks_of_a_mapping_file_are_run_on_arrival(unmade: Moved) -> None:
    create(unmade)
    put_hook(unmade.host2)
    unmade.live(*mapped(unmade))
    unmade.must_run_on("host2")
    assert noted(unmade.host2) == [("arrived", "creating", BUNDLE)]
    unmade.host2.run(["migrate", "delete", "--force", ID])
    assert noted(unmade.host2)[1:] == [("left", "stopped", BUNDLE)]


def test_a_migration_that_fails_lets_the_hooks_take_back_what_they_did(unmade: Moved) -> None:
    create(unmade)
    put_hook(unmade.host2)
    options = mapped(unmade)
    failed = unmade.live(*options, fault="destination:before:HELD:raise", check=False)
    assert failed.returncode == 1
    unmade.must_run_on("host1")
    assert [word for word, _, _ in noted(unmade.host2)] == ["arrived", "left"]


def test_a_hook_that_fails_stops_the_migration_and_not_the_container(unmade: Moved) -> None:
    create(unmade)
    put_hook(unmade.host2)
    with open(unmade.host2.folder(HOOK), "a") as file:
        file.write('[ "$1" = left ] || { echo no such network >&2; exit 3; }\n')
    failed = unmade.live(*mapped(unmade), check=False)
    assert failed.returncode == 1
    assert "no such network" in failed.stderr
    assert [word for word, _, _ in noted(unmade.host2)] == ["arrived", "left"]
    unmade.must_run_on("host1")
    assert not unmade.host2.folder(BUNDLE).exists()


def test_hooks_can_be_dropped(unmade: Moved) -> None:
    create(unmade)
    (unmade.host1.folder("/srv") / "map.toml").write_text(
        '[hooks]\ncreateRuntime = "drop"\npoststop = "drop"\n'
    )
    done = unmade.live("--map", "/srv/map.toml")
    assert "hook" not in done.stderr
    unmade.must_run_on("host2")
    config = json.loads((unmade.host2.folder(BUNDLE) / "config.json").read_text())
    assert config["hooks"] == {"createRuntime": [], "poststop": []}
    unmade.host2.run(["migrate", "delete", "--force", ID])
