"""The tables of the commands of a life say what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import lifecycle_table

if TYPE_CHECKING:
    from bench.lifecycle import Measured

COMMANDS = ("create", "start", "exec", "state", "kill", "delete", "list")


def measured(*, mine: float = 0.02, listed: float = 0.1, private_kib: int = 4096) -> Measured:
    """Every command of runc takes 10 ms and 8 MiB."""
    return {
        "seconds": {
            "runc": {name: [0.01, 0.01, 9.0] for name in COMMANDS},
            "migrate": {name: [mine] for name in COMMANDS} | {"exec": [7.0], "list": [listed]},
        },
        "peak_kib": {
            "runc": {name: [8192.0] for name in COMMANDS},
            "migrate": {name: [12288.0] for name in COMMANDS},
        },
        "init_private_kib": {"runc": [2048], "migrate": [private_kib]},
        "imports": {
            name: {f"module{number}": float(number) for number in range(1, 15)} for name in COMMANDS
        },
        "interpreter_seconds": [0.007],
    }


def test_the_life_is_judged_by_its_five_commands_together() -> None:
    assert lifecycle_table.five_together(measured()["seconds"]["migrate"]) == pytest.approx(0.1)
    rows = lifecycle_table.lifecycle(measured())
    (ratio, *_) = [row for row in rows if row.startswith("ratio")]
    assert ratio.split()[-1] == "2.00"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mine": 0.025}, ["reached", "reached", "reached"]),
        ({"mine": 0.026}, ["MISSED", "reached", "reached"]),
        ({"listed": 0.5}, ["reached", "MISSED", "reached"]),
        ({"private_kib": 10240}, ["reached", "reached", "reached"]),
        ({"private_kib": 10241}, ["reached", "reached", "MISSED"]),
    ],
)
def test_each_target_is_judged_by_itself(changed: dict[str, float], words: list[str]) -> None:
    lines = lifecycle_table.verdicts(measured(**changed))  # type: ignore[arg-type]
    assert [line.split()[0] for line in lines] == words


def test_the_imports_and_the_rest_are_the_whole_of_a_command() -> None:
    example = measured(mine=0.2)
    rows = [line.split() for line in lifecycle_table.imports(example)]
    by_name = {row[0]: row for row in rows if row}
    assert by_name["all"][2] == "105.0"
    # 200 ms less the interpreter and the imports
    assert by_name["its"][2] == "88.0"
    assert by_name["module14"][1] == "14.0"
    # The slowest have rows, the rest is counted: modules 1 and 2.
    assert by_name["others"][1:3] == ["2:", "3.0"]


def test_podman_has_time_and_memory_in_one_row() -> None:
    *_, runc, mine, ratio = lifecycle_table.podman(
        {
            "seconds": {"runc": {"podman run": [0.5]}, "migrate": {"podman run": [1.0]}},
            "peak_kib": {"runc": {"podman run": [2048.0]}, "migrate": {"podman run": [1024.0]}},
        }
    )
    assert runc.split() == ["runc", "500.0", "ms", "2.0", "MiB"]
    assert mine.split() == ["migrate", "1000.0", "ms", "1.0", "MiB"]
    assert ratio.split() == ["ratio", "2.00", "0.50"]
