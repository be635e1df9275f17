"""Lists of CPUs and nodes, over made-up input, and policies as the kernel takes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import ConfigError
from migrate.runtime.spec import scheduling, schema

RANGES = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 30)).map(lambda pair: (pair[0], sum(pair)))
)


@given(RANGES)
def test_a_list_is_read_as_the_numbers_of_its_ranges(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in ranges)
    expected = {number for low, high in ranges for number in range(low, high + 1)}
    assert scheduling.numbers(text, "$", 200) == sorted(expected)


@given(st.text(alphabet="0123456789-, x", max_size=12))
def test_any_text_is_a_list_or_refused_by_one_error(text: str) -> None:
    try:
        found = scheduling.numbers(text, "$.here", 64)
    except ConfigError:
        return
    assert found == sorted(set(found))
    assert all(0 <= number < 64 for number in found)


def test_a_mask_of_nodes_is_in_whole_longs() -> None:
    mode, nodes = scheduling.memory_policy({"mode": "MPOL_BIND", "nodes": "0,64"}, "$")
    assert mode == 2
    assert [int.from_bytes(nodes[at : at + 8], "little") for at in (0, 8)] == [1, 1]
    assert scheduling.memory_policy({"mode": "MPOL_PREFERRED"}, "$") == (1, b"")


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (schema.SCHEDULER_POLICIES, scheduling.POLICIES),
        (schema.SCHEDULER_FLAGS, scheduling.FLAGS),
        (schema.IO_CLASSES, scheduling.IO_CLASSES),
        (schema.MEMORY_MODES, scheduling.MEMORY_MODES),
        (schema.MEMORY_FLAGS, scheduling.MEMORY_FLAGS),
    ],
)
def test_every_word_has_a_number(words: tuple[str, ...], numbers: dict[str, int]) -> None:
    assert set(words) == set(numbers)
    assert len(set(numbers.values())) == len(numbers)
