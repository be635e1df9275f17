"""The tables of the benchmark say what was measured."""

from __future__ import annotations

from typing import Any

from bench import table


def run(**changed: float) -> dict[str, Any]:
    fields: dict[str, Any] = {field: 1.0 for _, field, _ in table.COLUMNS}
    return {**fields, **changed}


def test_a_median_is_not_moved_by_one_bad_run() -> None:
    runs = [run(downtime_seconds=value) for value in (0.1, 0.2, 9.0)]
    assert table.medians(runs)["downtime_seconds"] == 0.2


def test_a_target_is_reached_at_its_limit_and_missed_beyond() -> None:
    for downtime, word in ((0.2, "reached"), (0.21, "MISSED")):
        results = {"0": {"script": [run()], "migrate": [run(downtime_seconds=downtime)]}}
        (line,) = table.verdicts(results)
        assert line.startswith(word)
        assert "busybox, downtime" in line


def test_the_ratio_stands_below_both_methods() -> None:
    results = {"1024": {"script": [run(seconds=4.0)], "migrate": [run(seconds=1.0)]}}
    header, script, migrate, ratio = table.moves(results)
    assert script.startswith("1024 MiB, runc script")
    assert migrate.startswith("1024 MiB, migrate live")
    assert ratio.split()[-len(table.COLUMNS) :][1] == "0.25"
    assert "in all" in header
