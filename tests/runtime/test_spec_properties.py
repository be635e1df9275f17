"""Properties of the decoder and of the table of mount options, over made-up input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import ConfigError
from migrate.runtime.spec import decode, mountoptions, schema
from migrate.syscalls import MOUNT_ATTR__ATIME, MOUNT_ATTR_RDONLY

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


def values_of(node: Any) -> st.SearchStrategy[Any]:
    """Values that a node of the schema describes."""
    if isinstance(node, tuple):
        return st.sampled_from(node)
    if isinstance(node, list):
        return st.lists(values_of(node[0]), max_size=2)
    if isinstance(node, dict):
        if "*" in node:
            return st.dictionaries(TEXT, values_of(node["*"]), max_size=2)
        required = {n.removesuffix("!"): values_of(v) for n, v in node.items() if n.endswith("!")}
        optional = {n: values_of(v) for n, v in node.items() if not n.endswith("!")}
        return st.fixed_dictionaries(required, optional=optional)
    kind, lowest, highest = schema.SCALARS[node]
    if kind is str:
        return TEXT
    return st.booleans() if kind is bool else st.integers(lowest, highest)


@settings(max_examples=60, deadline=None)
@given(values_of(schema.SPEC))
def test_what_the_schema_describes_is_read_unchanged(value: Any) -> None:
    assert decode(json.dumps(value).encode(), "config.json") == value


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_whatever_json_there_is_an_answer_or_a_config_error(value: Any) -> None:
    problem = _problem_of(json.dumps({"ociVersion": "1.0", "process": value}).encode())
    assert problem is None or (problem.startswith("$") and "\n" not in problem)


def _problem_of(data: bytes) -> str | None:
    try:
        decode(data, "x")
    except ConfigError as error:
        return str(error)
    return None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_bytes_there_is_an_answer_or_a_config_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        decode(b"{" + data, "x")


@settings(max_examples=60, deadline=None)
@given(values_of(schema.SPEC), st.data())
def test_one_wrong_value_is_named_by_its_path(value: Any, data: st.DataObject) -> None:
    places = list(_places(value, schema.SPEC, "$"))
    parent, key, path = data.draw(st.sampled_from(places))
    parent[key] = 1.5  # of no type that the schema has
    with pytest.raises(ConfigError) as caught:
        decode(json.dumps(value).encode(), "config.json")
    assert caught.value.path == path


def _places(value: Any, node: Any, path: str) -> Any:
    """Every place of a value that the schema gives a type: parent, key, path."""
    if isinstance(node, dict):
        inner = {name.removesuffix("!"): kind for name, kind in node.items()}
        for name in value:
            text = f"[{json.dumps(name, ensure_ascii=False)}]" if "*" in node else f".{name}"
            if "*" in node and len(text) > 50:
                continue
            yield value, name, path + text
            yield from _places(value[name], inner.get("*", inner.get(name)), path + text)
    elif isinstance(node, list):
        for at, item in enumerate(value):
            yield value, at, f"{path}[{at}]"
            yield from _places(item, node[0], f"{path}[{at}]")


WORDS = sorted(
    {
        *mountoptions.ATTRIBUTES,
        *mountoptions.ATIME,
        *mountoptions.PROPAGATION,
        *(f"r{word}" for word in mountoptions.ATTRIBUTES),
        *(f"r{word}" for word in mountoptions.ATIME),
        *(f"r{word}" for word in mountoptions.PROPAGATION),
        *mountoptions.NOTHING,
        *mountoptions.SUPERBLOCK,
        *mountoptions.OWN,
        "size=1m",
        "mode=755",
    }
)


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_nothing_is_both_set_and_cleared_but_the_access_time_field(words: list[str]) -> None:
    made = mountoptions.parse(words, "$")
    for attr_set, attr_clr in (
        (made.attr_set, made.attr_clr),
        (made.rec_attr_set, made.rec_attr_clr),
    ):
        assert attr_set & attr_clr & ~MOUNT_ATTR__ATIME == 0
        # mount_setattr(2): a value of the field only together with clearing all of it.
        assert attr_clr & MOUNT_ATTR__ATIME in (0, MOUNT_ATTR__ATIME)
        if attr_set & MOUNT_ATTR__ATIME:
            assert attr_clr & MOUNT_ATTR__ATIME == MOUNT_ATTR__ATIME


@given(
    st.lists(st.sampled_from(WORDS), max_size=12), st.sampled_from(sorted(mountoptions.ATTRIBUTES))
)
def test_the_last_word_about_an_attribute_wins(words: list[str], last: str) -> None:
    bit, is_set = mountoptions.ATTRIBUTES[last]
    made = mountoptions.parse([*words, last], "$")
    assert bool(made.attr_set & bit) is is_set
    assert bool(made.attr_clr & bit) is not is_set


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_repeating_the_words_changes_nothing(words: list[str]) -> None:
    once, twice = mountoptions.parse(words, "$"), mountoptions.parse(words * 2, "$")
    for name in ("attr_set", "attr_clr", "rec_attr_set", "rec_attr_clr", "bind", "idmap"):
        assert getattr(once, name) == getattr(twice, name)


@given(st.lists(TEXT, max_size=6))
def test_a_word_of_nobody_is_the_file_systems(words: list[str]) -> None:
    known = set(WORDS) | mountoptions.OWN
    strange = [w for w in words if w and w not in known and w.split("=")[0] not in known]
    made = mountoptions.parse(strange, "$")
    joined = [key if value is None else f"{key}={value}" for key, value in made.data]
    assert joined == strange


def test_plain_and_recursive_words_are_kept_apart() -> None:
    made = mountoptions.parse(["rbind", "rro", "rw", "rslave", "ro"], "$")
    assert made.bind == "rbind"
    assert made.rec_attr_set == MOUNT_ATTR_RDONLY
    assert made.attr_set == MOUNT_ATTR_RDONLY
    assert made.propagation == [(mountoptions.PROPAGATION["slave"], True)]
