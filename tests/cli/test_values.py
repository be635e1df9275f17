"""Values of options that are more than a word: users, sizes, numbers, durations, signals."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.cli import exec_cmd, update_cmd
from migrate.cli.command import Call
from migrate.cli.options import COMMANDS
from migrate.cli.parse import parse, seconds
from migrate.errors import UsageError
from migrate.runtime.kill import signal_number

# What people type, what they mistype, and what int() and float() take beside it.
DIGITS = st.text("0123456789", min_size=1, max_size=12)
NEARLY = st.text("0123456789+-_.eE kKmMiIbBxX\u00b2\uff11", max_size=12)
WHATEVER = st.one_of(st.text(max_size=12), NEARLY, st.just("9" * 5000))
IDS = st.integers(0, 2**32 - 2)


def answer(read: Callable[..., Any], *words: str) -> Any:
    """What a reader of values returns, or the text of its refusal."""
    try:
        return read(*words)
    except UsageError as error:
        return str(error)


def user_of(*words: str) -> dict[str, Any]:
    """What `exec` makes of the options about the user."""
    process: Any = {"user": {"uid": 7, "gid": 8}}
    exec_cmd._set_user(call(*words), process)
    return process["user"]  # type: ignore[no-any-return]


def call(*words: str) -> Call:
    return parse(["exec", *words, "c", "true"])


@given(IDS, IDS)
def test_a_user_and_group_are_numbers(uid: int, gid: int) -> None:
    assert user_of("--user", f"{uid}:{gid}") == {"uid": uid, "gid": gid}
    assert user_of("-u", str(uid)) == {"uid": uid, "gid": 8}


@given(st.lists(IDS, max_size=4))
def test_further_groups_are_added_in_their_order(gids: list[int]) -> None:
    words = [word for gid in gids for word in ("-g", str(gid))]
    assert user_of(*words).get("additionalGids", []) == gids


@given(WHATEVER)
def test_a_user_is_a_number_or_refused(text: str) -> None:
    user = answer(user_of, f"--user={text}")
    if isinstance(user, str):
        return
    # The empty text is an option that is not given.
    wanted = [part for part in text.split(":", 1) if part]
    assert all(part.isascii() and part.isdigit() for part in wanted)
    assert all(0 <= number < 2**32 - 1 for number in user.values())


@pytest.mark.parametrize(
    "text", ["root", "0:root", ":", ":1", "1:", "-1", "4294967295", "0x0", " 0"]
)
def test_what_is_no_number_is_no_user(text: str) -> None:
    with pytest.raises(UsageError, match="numeric id"):
        user_of(f"--user={text}")


@given(st.integers(0, 1 << 32), st.sampled_from("bkmgBKMG"), st.sampled_from(["", "b", "ib", "iB"]))
def test_a_size_is_a_number_and_a_unit(number: int, unit: str, suffix: str) -> None:
    if unit in "bB":
        suffix = ""
    size = update_cmd._bytes("memory", f"{number}{unit}{suffix}")
    assert size == number * {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[unit.lower()]


@given(WHATEVER)
def test_a_size_is_not_negative_and_fits_or_is_refused(text: str) -> None:
    size = answer(update_cmd._bytes, "memory", text)
    if isinstance(size, str):
        assert len(size) < 100
        return
    assert 0 <= size < 1 << 63 or (text, size) == ("-1", -1)
    assert "_" not in text


@given(st.integers(-(10**18), 10**18))
def test_a_whole_number_is_itself(number: int) -> None:
    assert update_cmd._number("cpu-quota", str(number)) == number


@given(WHATEVER)
def test_a_number_is_written_in_plain_digits_or_refused(text: str) -> None:
    number = answer(update_cmd._number, "cpu-quota", text)
    if isinstance(number, str):
        assert len(number) < 100
        return
    assert text.removeprefix("-").isascii()
    assert int(text) == number


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{hours}h{minutes}m{rest}s") == hours * 3600 + minutes * 60 + rest


@given(WHATEVER)
def test_a_duration_is_a_number_or_refused(text: str) -> None:
    try:
        value = seconds(text)
    except ValueError:
        return
    assert value == value  # noqa: PLR0124 - it is not NaN


@given(st.one_of(WHATEVER, st.builds("{}+{}".format, st.sampled_from(["RTMIN", "TERM"]), WHATEVER)))
def test_a_signal_is_one_of_this_kernels_or_refused(text: str) -> None:
    number = answer(signal_number, text)
    if isinstance(number, str):
        assert number.startswith("unknown signal")
        return
    assert 0 <= number < signal.NSIG


@given(st.sampled_from(sorted(COMMANDS)), st.lists(WHATEVER, max_size=5))
def test_the_words_after_two_dashes_are_arguments(name: str, words: list[str]) -> None:
    command = COMMANDS[name]
    if len(words) < command.least or 0 <= command.most < len(words):
        return
    made = parse([name, "--", *words])
    assert made.arguments == words
    assert made.options == parse([name, "--", *["x"] * len(words)]).options
