"""The command line itself: options, ids, help, logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .driver import Runtime, says_unknown

COMMANDS = [
    "checkpoint", "create", "delete", "events", "exec", "kill", "list", "pause", "ps", "restore",
    "resume", "run", "spec", "start", "state",
]  # fmt: skip
BAD_IDS = [
    "",
    ".",
    "..",
    "a/b",
    "/abs",
    "../up",
    "sp ace",
    "semi;colon",
    "new\nline",
    "é",
    "a" * 1100,
]
GOOD_IDS = ["a", "A.b_c-d+e", "0", "x" * 64]


def test_help_is_given_and_names_the_commands(runtime: Runtime) -> None:
    out = runtime.ok("--help").out
    for command in COMMANDS:
        assert command in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_ends_well(runtime: Runtime, command: str) -> None:
    # Engines probe for checkpoint support with exactly this.
    assert command in runtime.ok(command, "--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "one", "two"],
        ["start"],
        ["start", "one", "two"],
        ["state"],
        ["state", "one", "two"],
        ["delete"],
        ["kill"],
        ["kill", "one", "TERM", "more"],
        ["exec"],
        ["list", "one"],
        ["pause"],
        ["resume"],
        ["ps"],
        ["events"],
        ["create", "--nonesuch", "one"],
        ["create", "--bundle"],
        ["create", "--preserve-fds", "many", "one"],
        ["events", "--interval", "often", "one"],
        ["nonesuch"],
        ["--nonesuch", "list"],
        ["--log-format", "yaml", "list"],
    ],
)
def test_a_wrong_call_fails_and_says_why(runtime: Runtime, arguments: list[str]) -> None:
    assert runtime.refuses(*arguments)
    assert runtime.ids() == []


def test_restore_without_a_value_says_that_the_option_needs_one(runtime: Runtime) -> None:
    # An engine looks for these very words to learn whether the option is there.
    error = runtime.refuses("restore", "--lsm-mount-context")
    assert "flag needs an argument" in error or "requires an argument" in error


@pytest.mark.parametrize("name", BAD_IDS)
def test_an_id_that_could_leave_the_state_root_is_refused(runtime: Runtime, name: str) -> None:
    bundle = runtime.bundle("true")
    runtime.refuses("create", "--bundle", str(bundle.path), name)
    for verb in ("state", "delete", "kill", "start"):
        runtime.refuses(verb, name)
    assert runtime.ids() == []


@pytest.mark.parametrize("name", GOOD_IDS)
def test_an_id_of_allowed_characters_is_taken(runtime: Runtime, name: str) -> None:
    bundle = runtime.bundle("true")
    runtime.ok("create", "--bundle", str(bundle.path), name)
    assert f'"{name}"' in runtime.ok("state", name).out
    runtime.ok("delete", name)


def test_an_option_may_have_one_or_two_dashes(runtime: Runtime) -> None:
    container = runtime.create()
    assert runtime.ok("list", "-quiet").out == f"{container.id}\n"
    assert runtime.ok("list", "-format", "json").out.startswith("[")
    assert runtime.ok("list", "--format=json").out.startswith("[")
    assert runtime.ok("list", "-f=json").out.startswith("[")


def test_run_takes_the_option_of_the_shim(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    runtime.ok("run", "-no-subreaper", "--bundle", str(bundle.path), runtime.new_id())


def test_options_that_change_nothing_here_are_taken(runtime: Runtime) -> None:
    runtime.ok("--debug", "list")
    runtime.ok("--rootless", "auto", "list")
    container = runtime.create(None, "--no-new-keyring", "--no-pivot", "--preserve-fds", "0")
    assert container.status == "created"


def test_errors_go_to_the_log_as_json_too(runtime: Runtime) -> None:
    log = runtime.workspace / "log.json"
    options = ["--log", str(log), "--log-format=json"]
    runtime.refuses(*options, "state", "oci-nobody")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert entries[-1]["level"] == "error"
    assert says_unknown(entries[-1]["msg"])
    assert entries[-1]["time"][:2] == "20"
    assert "T" in entries[-1]["time"]


def test_a_log_of_a_successful_command_has_no_error(runtime: Runtime) -> None:
    log = runtime.workspace / "log.json"
    runtime.ok("--log", str(log), "--log-format", "json", "list")
    assert not log.exists() or "error" not in log.read_text()


def test_errors_are_appended_to_a_log(runtime: Runtime) -> None:
    log = runtime.workspace / "log"
    log.write_text("before\n")
    runtime.refuses("--log", str(log), "state", "oci-nobody")
    assert log.read_text().startswith("before\n")
    assert says_unknown(log.read_text())


def test_an_error_is_one_line_on_standard_error_and_none_on_standard_output(
    runtime: Runtime,
) -> None:
    result = runtime("state", "oci-nobody")
    assert result.status == 1
    assert result.out == ""
    assert len(result.err.splitlines()) == 1


def test_the_state_root_is_made_when_it_is_needed(runtime: Runtime) -> None:
    deep = runtime.workspace / "deep" / "er"
    bundle = runtime.bundle("true")
    environment = runtime.environment
    runtime.ok("list")
    for command in (["create", "--bundle", str(bundle.path)], ["delete"]):
        runtime.ok("--root", str(deep), *command, "x", env=environment)
    assert list(deep.iterdir()) == []


def test_two_roots_do_not_know_of_each_other(runtime: Runtime) -> None:
    container = runtime.create()
    other = str(runtime.workspace / "other")
    assert says_unknown(runtime.refuses("--root", other, "state", container.id))


def test_the_state_directory_is_for_its_owner_alone(runtime: Runtime) -> None:
    container = runtime.create()
    assert Path(runtime.root / container.id).stat().st_mode & 0o077 in {0, 0o011}
