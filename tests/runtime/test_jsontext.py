"""JSON as the hot path reads and writes it, against the standard library's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.runtime import jsontext

PACKAGE_PARENT = str(Path(jsontext.__file__).parents[2])

# Lone surrogates are refused by one and passed by the other.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert jsontext.loads(jsontext.dumps(value)) == value
    assert jsontext.loads(jsontext.dumps(value, indent="\t").encode()) == value


@given(VALUES)
def test_the_standard_library_reads_and_lays_out_the_same(value: Any) -> None:
    assert json.loads(jsontext.dumps(value)) == value
    laid_out = json.dumps(value, indent=2, ensure_ascii=False)
    assert jsontext.dumps(value, indent="  ") == laid_out


@given(VALUES, st.booleans())
def test_what_the_standard_library_writes_is_read(value: Any, ascii_only: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    assert jsontext.loads(f" \n{text}\t\r\n") == value


@given(TEXT)
def test_any_text_is_read_or_refused_by_one_error(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=pytest.fail)
    except (ValueError, RecursionError, pytest.fail.Exception):
        with pytest.raises(jsontext.JsonError):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expecting a value at line 1 column 1"),
        ("{", "expecting property name enclosed in double quotes at line 1 column 2"),
        ('{"a":1,"b":{"a":1,"a":2}}', "name 'a' is given twice"),
        ("[1,\n 2,,]", "expecting a value at line 2 column 4"),
        ("[NaN]", "NaN is not JSON at line 1 column 2"),
        ("-Infinity", "-Infinity is not JSON at line 1 column 1"),
        ("[1] [2]", "text after the value at line 1 column 5"),
        ('"a\nb"', "invalid control character at line 1 column 3"),
        ("\ufeff{}", "expecting a value at line 1 column 1"),
        ('["\\ud800"]', "a lone surrogate is no character"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_an_error_says_what_and_where(text: str | bytes, message: str) -> None:
    with pytest.raises(jsontext.JsonError) as caught:
        jsontext.loads(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {1}, b"x", [object()]])
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(jsontext.JsonError):
        jsontext.dumps(value)


def test_errors_have_words_where_the_json_module_was_never_loaded() -> None:
    program = (
        f"import sys; sys.path.append({PACKAGE_PARENT!r})\n"
        "from migrate.runtime import jsontext\n"
        "assert 'json' not in sys.modules\n"
        "try: jsontext.loads('[1,')\n"
        "except jsontext.JsonError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "expecting a value at line 1 column 4\n"
