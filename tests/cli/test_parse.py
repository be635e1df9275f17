"""The command line as engines write it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.cli.command import DURATION, FLAG, LIST, NUMBER
from migrate.cli.options import COMMANDS, GLOBALS
from migrate.cli.parse import HelpWanted, parse, seconds
from migrate.errors import UsageError


def given_options(words: str) -> dict[str, Any]:
    """The options of a line that differ from their defaults."""
    call = parse(words.split())
    defaults = {option.names[0]: option.default for option in COMMANDS[call.command].options}
    return {name: value for name, value in call.options.items() if value != defaults[name]}


@pytest.mark.parametrize(
    ("line", "options", "arguments"),
    [
        ("create --bundle /b x", {"bundle": "/b"}, ["x"]),
        ("create -b=/b x", {"bundle": "/b"}, ["x"]),
        ("create x -bundle /b", {"bundle": "/b"}, ["x"]),
        ("create --preserve-fds 0x10 x", {"preserve-fds": 16}, ["x"]),
        ("create --bundle= x", {}, ["x"]),
        ("create --bundle /a --bundle /b x", {"bundle": "/b"}, ["x"]),
        ("create --no-pivot=false --no-new-keyring=1 x", {"no-new-keyring": True}, ["x"]),
        ("restore -no-subreaper -d x", {"no-subreaper": True, "detach": True}, ["x"]),
        ("restore --empty-ns network --empty-ns a,b x", {"empty-ns": ["network", "a,b"]}, ["x"]),
        ("exec -e A=1 -e B=2,3 x ls -e C", {"env": ["A=1", "B=2,3"]}, ["x", "ls", "-e", "C"]),
        ("exec x --help", {}, ["x", "--help"]),
        ("exec -- x -c", {}, ["x", "-c"]),
        ("exec --cgroup cpu:a --cgroup b x ls", {"cgroup": ["cpu:a", "b"]}, ["x", "ls"]),
        ("ps -f json x -ef", {"format": "json"}, ["x", "-ef"]),
        ("kill --all x 9", {"all": True}, ["x", "9"]),
        ("kill x KILL -a", {"all": True}, ["x", "KILL"]),
        ("events --stats --interval=5m x", {"stats": True, "interval": 300.0}, ["x"]),
        ("list --format=json -q", {"format": "json", "quiet": True}, []),
        ("delete --force x", {"force": True}, ["x"]),
        ("update --resources - x", {"resources": "-"}, ["x"]),
        ("update --memory-swap -1 x", {"memory-swap": "-1"}, ["x"]),
        ("checkpoint --leave-running --leave-running x", {"leave-running": True}, ["x"]),
        ("live x --to root@h:22 --json", {"to": "root@h:22", "json": True}, ["x"]),
    ],
)  # fmt: skip
def test_a_line_is_understood(line: str, options: dict[str, Any], arguments: list[str]) -> None:
    assert {k: v for k, v in given_options(line).items() if v is not False} == {
        k: v for k, v in options.items() if v is not False
    }
    assert parse(line.split()).arguments == arguments


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("restore --lsm-mount-context", "flag needs an argument: -lsm-mount-context"),
        ("create --bundle", "flag needs an argument: -bundle"),
        ("create --nope x", "flag provided but not defined: -nope"),
        ("--nope list", "flag provided but not defined: -nope"),
        ("run -it x", "flag provided but not defined: -it"),
        ("create", '"create" requires exactly 1 argument, not 0'),
        ("state a b", '"state" requires exactly 1 argument, not 2'),
        ("kill", '"kill" requires at least 1 argument, not 0'),
        ("kill a b c", '"kill" requires at most 2 arguments, not 3'),
        ("list x", '"list" requires exactly 0 arguments, not 1'),
        ("frob", 'there is no command "frob"'),
        ("create --preserve-fds x y", 'invalid value "x" for flag -preserve-fds'),
        ("events --interval=5 x", 'invalid value "5" for flag -interval: a duration'),
        ("delete --force=maybe x", 'invalid value "maybe" for flag -force'),
        ("kill x -9", "flag provided but not defined: -9"),
    ],
)
def test_a_line_that_is_not_understood_is_refused_in_one_line(line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "migrate" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("", ""),
        ("help", ""),
        ("--help", ""),
        ("-h", ""),
        ("help run", "run"),
        ("checkpoint --help", "checkpoint"),
        ("checkpoint x -h", "checkpoint"),
        ("exec -h", "exec"),
        ("exec -u 5 --help x", "exec"),
    ],
)
def test_help_is_asked_for(line: str, command: str) -> None:
    with pytest.raises(HelpWanted) as caught:
        parse(line.split())
    assert caught.value.command == command
    assert not caught.value.version


@pytest.mark.parametrize("line", ["-v", "--version", "-version", "--root /x --version list"])
def test_the_version_is_asked_for(line: str) -> None:
    with pytest.raises(HelpWanted) as caught:
        parse(line.split())
    assert caught.value.version


def test_a_near_miss_is_pointed_out() -> None:
    with pytest.raises(UsageError) as caught:
        parse(["list", "--frmat", "json"])
    assert "Did you mean --format?" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        parse(["stat", "x"])
    assert "Did you mean `migrate state" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "value"),
    [("5s", 5.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), ("0", 0.0), ("-2s", -2.0),
     ("3us", 3e-6), ("3µs", 3e-6), ("1ns", 1e-9)],
)  # fmt: skip
def test_durations_are_gos(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5x", "1.2.3s", "--5s", "abc", "-"])
def test_what_go_does_not_take_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any: the parser catches it
        seconds(text)


WORDS = {FLAG: ["true"], NUMBER: ["7"], DURATION: ["5s"], LIST: ["a,b", "-c"]}


@given(st.data())
def test_every_option_of_every_command_may_be_written_four_ways(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(COMMANDS)))
    command = COMMANDS[name]
    if not command.options:
        return
    option = data.draw(st.sampled_from(list(command.options)))
    spelling = data.draw(st.sampled_from(option.names))
    dashes = data.draw(st.sampled_from(["-", "--"]))
    word = data.draw(st.sampled_from(WORDS.get(option.kind, ["v"])))
    joined = data.draw(st.booleans()) or option.kind == FLAG
    words = [f"{dashes}{spelling}={word}"] if joined else [f"{dashes}{spelling}", word]
    arguments = ["x"] * command.least
    value = parse([name, *words, *arguments]).options[option.names[0]]
    expected: dict[str, Any] = {FLAG: True, NUMBER: 7, DURATION: 5.0, LIST: [word]}
    assert value == expected.get(option.kind, word)


@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    try:
        parse(words)
    except (UsageError, HelpWanted):
        return


def test_no_name_is_given_twice() -> None:
    for options in [GLOBALS, *(command.options for command in COMMANDS.values())]:
        names = [name for option in options for name in option.names]
        assert len(names) == len(set(names))
        assert "help" not in names or options is GLOBALS
