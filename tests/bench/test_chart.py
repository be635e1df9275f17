"""The picture has a mark for each cell that was measured, and for no other."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bench import cells, chart
from tests.bench.cells_of import measured

SVG = "{http://www.w3.org/2000/svg}"
DOWNTIME = {"script": 2.0, "stop-copy": 0.5, "pre-copy": 0.05}


def marks(picture: str) -> list[str]:
    """Return what the marks of downtime say when one points at them."""
    root = ET.fromstring(picture)
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    return [title for title in titles if ": downtime " in title]


def words(picture: str) -> set[str]:
    return {text.text or "" for text in ET.fromstring(picture).iter(f"{SVG}text")}


def test_every_cell_has_its_mark_and_busybox_one_in_each_row() -> None:
    plan = measured(cells.full(), DOWNTIME)
    found = marks(chart.draw(plan, "somewhere"))
    # Busybox is the beginning of the idle lines and of the busy ones.
    assert len(found) == len(plan) + len(cells.LINKS) * len(cells.METHODS)
    assert "1 GiB busy, 100 Mbit/s, pre-copy: downtime 50 ms" in found


def test_what_was_not_measured_is_not_drawn_but_said() -> None:
    plan = measured(cells.small(), DOWNTIME)
    for cell in plan:
        if cell["link"] != cells.UNLIMITED:
            cell["runs"] = []
    picture = chart.draw(plan, "somewhere")
    assert not [title for title in marks(picture) if "100 Mbit/s" in title]
    assert not [text for text in words(picture) if "100 Mbit/s" in text]
    assert "Medians. 11 of 13 cells measured; the other 2 are left out, see the table." in words(
        picture
    )


def test_no_line_goes_over_a_size_that_was_not_measured() -> None:
    plan = measured(cells.full(), DOWNTIME)
    for cell in plan:
        # The size is still on the axis, as another method has it.
        if cell["memory_mib"] == 1024 and cell["method"] == "script":
            cell["runs"] = []
    gaps = chart.draw(plan, "somewhere")
    lines = [line for line in gaps.splitlines() if 'class="line script"' in line][1:]
    assert lines
    assert all(line.count("M") == 2 and line.count("L") == 1 for line in lines)


def test_a_panel_of_which_nothing_was_measured_says_so() -> None:
    assert "not measured" in words(chart.draw(measured(cells.small(), DOWNTIME), "somewhere"))
    assert "not measured" not in words(chart.draw(measured(cells.full(), DOWNTIME), "somewhere"))


def test_the_axes_have_units_and_the_page_both_colours() -> None:
    picture = chart.draw(measured(cells.full(), DOWNTIME), "a <machine> & its date")
    assert {"busybox", "256 MiB", "1 GiB", "4 GiB", "10 ms", "1 s", "10 s"} <= words(picture)
    assert "a <machine> & its date" in words(picture)
    assert "prefers-color-scheme: dark" in picture


def test_a_picture_of_nothing_is_still_one() -> None:
    ET.fromstring(chart.draw(cells.small(), "nowhere"))


@pytest.mark.parametrize(
    ("values", "powers"),
    [([0.05, 2.0], [-2, -1, 0, 1]), ([1.0], [0, 1]), ([0.0], [0, 1]), ([0.1, 10.0], [-1, 0, 1])],
)
def test_the_scale_begins_and_ends_at_powers_of_ten(values: list[float], powers: list[int]) -> None:
    assert list(chart.decades(values)) == powers


def test_durations_are_written_out() -> None:
    said = [chart.duration(seconds) for seconds in (0.0123, 0.1, 1, 12.34, 1000.0)]
    assert said == ["12.3 ms", "100 ms", "1 s", "12.3 s", "1000 s"]


def test_ten_times_as_long_is_a_step_up_everywhere() -> None:
    scales = chart.Scales([0, 1024], range(-2, 3))
    steps = [scales.y(10.0**power) for power in (-2, -1, 0, 1, 2)]
    assert steps == [chart.HEIGHT * share for share in (1, 0.75, 0.5, 0.25, 0)]
    assert scales.x(0) < scales.x(1024) < chart.WIDTH
