"""Facts as JSON: whole again, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.checkpoint.facts import Facts
from migrate.errors import ImageError
from tests.checkpoint.test_options import PLAIN, facts


@given(facts)
def test_facts_survive_json(container: Facts) -> None:
    assert Facts.from_json(json.loads(json.dumps(container.to_json()))) == container


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_anything_else_is_refused(data: object) -> None:
    with pytest.raises(ImageError):
        Facts.from_json(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pid": "7"}, "facts.pid is not of type int"),
        ({"pid": True}, "facts.pid is not of type int"),
        ({"terminal": 1}, "facts.terminal is not of type bool"),
        ({"surprise": 1}, "facts.surprise is unknown"),
        ({"schema_version": 99}, "schema this version does not know"),
        ({"mounts": {}}, "facts.mounts is not a list"),
        ({"mounts": [{"destination": "/a", "kind": "evil"}]}, r"facts.mounts\[0\].kind is 'evil'"),
        ({"mounts": [{"kind": "bind"}]}, r"facts.mounts\[0\] is incomplete"),
        ({"network": None}, "facts.network is not an object"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        Facts.from_json({**PLAIN.to_json(), **change})


def test_what_is_missing_is_named() -> None:
    data = PLAIN.to_json()
    del data["rootfs"]
    with pytest.raises(ImageError, match="rootfs"):
        Facts.from_json(data)
