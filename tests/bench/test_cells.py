"""The matrix has every combination once, and no size that the machine has no room for."""

from __future__ import annotations

from bench import cells
from bench.cells import Cell
from bench.matrix_table import GOALS


def test_the_full_matrix_has_each_load_on_each_link_by_each_method_once() -> None:
    plan = cells.full()
    keys = {(c["memory_mib"], c["dirty_pages"], c["link"], c["method"]) for c in plan}
    assert len(keys) == len(plan) == (1 + 3 * 2) * len(cells.LINKS) * len(cells.METHODS)
    assert not [c for c in plan if c["dirty_pages"] and not c["memory_mib"]]


def test_the_small_matrix_has_every_cell_a_goal_needs_and_nothing_twice() -> None:
    plan = cells.small()
    keys = {(c["memory_mib"], c["dirty_pages"], c["link"], c["method"]) for c in plan}
    assert len(keys) == len(plan)
    needed = [cell for goal in GOALS for cell in (goal.mine, goal.other)]
    assert all(cells.find(plan, cell) for cell in needed if cell.method in cells.METHODS)


def test_a_size_is_left_out_where_the_script_would_have_no_room() -> None:
    assert cells.lack_of_room(4096, 4096 * 3 + 1024) == ""
    assert "needs 13312 MiB" in cells.lack_of_room(4096, 4096 * 3 + 1023)


def test_sizes_are_called_by_their_unit() -> None:
    names = [cells.size_name(mib) for mib in (0, 256, 1024, 1536, 4096)]
    assert names == ["busybox", "256 MiB", "1 GiB", "1536 MiB", "4 GiB"]


def test_a_cell_without_runs_has_no_median() -> None:
    plan = cells.small()
    cell = Cell(memory_mib=0, method="script")
    assert cells.middle(cells.find(plan, cell), "seconds") is None
    assert cells.middle(cells.find(plan, Cell(memory_mib=7, method="script")), "seconds") is None
