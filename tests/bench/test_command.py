"""What the benchmark's command takes, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import cells, chart
from bench.matrix import planned
from tests.bench.cells_of import measured
from tests.support.folders import CHECKOUT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--matrix", "tiny"], "'tiny'"),
        (["--matrix", "--memory", "1,x"], "'1,x' is not a list of sizes in MiB"),
        (["--memory", "-1"], "'-1' is not a list of sizes"),
        (["--matrix", "small", "--memory", "0"], "sizes of its own; leave it out"),
        (["--matrix", "--runs", "0"], "--runs 0: at least 1"),
        (["--matrix", "--only", "moves"], "not allowed with"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(
    words: list[str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=CHECKOUT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_matrix_is_written_as_figures_text_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    downtime = {"script": 1.0, "stop-copy": 0.1, "pre-copy": 0.02}
    matrix = planned(measured(cells.small(), downtime))
    result = {"machine": command.machine(), "mix": "mixed", "matrix": matrix}
    text = command.render_matrix(result)
    picture = chart.draw(matrix["cells"], command.where(result))
    command.write(tmp_path / "results", result, text, picture)
    written = {path.suffix: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert json.loads(written[".json"])["matrix"] == matrix
    assert written[".txt"] == text
    assert written[".svg"] == picture
    assert "reached  1 GiB, downtime: 0.02 of the script's" in text
    assert capsys.readouterr().out.startswith(text)
