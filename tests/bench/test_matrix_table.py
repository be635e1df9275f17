"""What is said of the matrix is what was measured, and what was not is said, too."""

from __future__ import annotations

import pytest

from bench import cells, matrix_table
from bench.matrix import Matrix, planned
from tests.bench.cells_of import measured

NAMES = (
    *("busybox, downtime", "1 GiB, downtime", "1 GiB, in all", "1 GiB busy, downtime"),
    *("1 GiB over 100 Mbit/s, downtime", "downtime at 4 GiB beside 256 MiB"),
)


def lines(matrix: Matrix) -> dict[str, str]:
    """Return each verdict's line by what it is about."""
    return {line[9:].split(":", 1)[0]: line for line in matrix_table.verdicts(matrix)}


@pytest.mark.parametrize(
    ("pre_copy", "word"),
    [(0.04, "reached"), (0.041, "MISSED")],
)
def test_a_goal_is_reached_at_its_limit_and_missed_beyond(pre_copy: float, word: str) -> None:
    downtime = {"script": 1.0, "stop-copy": 0.125, "pre-copy": pre_copy}
    said = lines(planned(measured(cells.small(), downtime)))
    assert set(NAMES) <= set(said)
    assert said["1 GiB, downtime"].startswith(word)
    assert f"{pre_copy:.3g} of the script's by pre-copy" in said["1 GiB, downtime"]
    assert said["busybox, downtime"].startswith("reached")
    assert said["1 GiB over 100 Mbit/s, downtime"].startswith("MISSED")
    assert said["1 GiB, in all"].startswith("MISSED")


def test_what_is_wanted_of_hybrid_is_neither_reached_nor_missed_by_another() -> None:
    downtime = {"script": 1.0, "stop-copy": 0.5, "pre-copy": 0.01}
    said = lines(planned(measured(cells.small(), downtime)))
    for name in ("1 GiB busy, downtime", "downtime at 4 GiB beside 256 MiB"):
        assert said[name].startswith("absent")
        assert "hybrid does not exist yet" in said[name]
    assert "pre-copy: 0.01 of the script's" in said["1 GiB busy, downtime"]
    assert "pre-copy: 1 of that" in said["downtime at 4 GiB beside 256 MiB"]


def test_what_was_not_measured_is_unknown_and_says_why() -> None:
    plan = measured(cells.small(), {"script": 1.0, "stop-copy": 0.1, "pre-copy": 0.01})
    script = cells.find(plan, cells.Cell(memory_mib=1024, method="script"))
    assert script
    script["runs"], script["left_out"] = [], "no room"
    said = lines(planned(plan))
    assert said["1 GiB, downtime"].startswith("unknown")
    assert "1 GiB, unlimited, script: no room" in said["1 GiB, downtime"]
    assert said["throughput of the link"].startswith("unknown")
    rows = matrix_table.rows(plan)
    assert rows[-1] == "left out after 0 runs: unlimited, 1 GiB, script: no room"
    (row,) = [row for row in rows if row.split()[:4] == ["unlimited", "1", "GiB", "script"]]
    assert row.split()[4:] == ["-"] * 5


def test_criu_alone_is_its_frozen_time_and_its_restore() -> None:
    matrix = planned(measured(cells.small(), {"script": 1.0, "stop-copy": 0.15, "pre-copy": 1.0}))
    matrix["raw_criu"] = [{"frozen_seconds": 0.04, "restore_seconds": 0.06}]
    assert matrix_table.judge_raw(matrix).startswith("reached")
    matrix["raw_criu"] = [{"frozen_seconds": 0.04, "restore_seconds": 0.05}]
    assert matrix_table.judge_raw(matrix).startswith("MISSED")
    matrix["raw_criu"], matrix["failed"] = [], {"raw_criu": "criu: no"}
    assert matrix_table.judge_raw(matrix).startswith("unknown")
    assert "criu: no" in matrix_table.judge_raw(matrix)


def test_each_way_over_the_link_is_judged_by_itself() -> None:
    matrix = planned([])
    matrix["throughput"] = {
        "cat | ssh": [100e6, 200e6, 900e6],
        "paramiko": [179e6],
        "openssh": [180e6],
    }
    paramiko, openssh = matrix_table.judge_throughput(matrix)
    assert paramiko.startswith("MISSED   throughput by paramiko: 179 MB/s")
    assert openssh.startswith("reached  throughput by openssh: 180 MB/s, 0.90 of the 200")
