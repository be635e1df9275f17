"""A dump that leaves memory where it is, and what becomes of the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.checkpoint.dump import Dump
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.left_out import LeftOut
from migrate.checkpoint.options import Request
from migrate.checkpoint.pages import StreamSummary
from migrate.errors import CriuError
from tests.checkpoint.conftest import Maker, eventually


def test_the_tasks_live_where_the_handler_says_no(box: Maker, criu: str, tmp_path: Path) -> None:
    payload = box("/bin/payload", "--status", "/status", "--memory", "24")
    payload.start()
    eventually(lambda: payload.number("ticks") > 20, "it runs")
    left_out = LeftOut(lambda _: StreamSummary(0, 0, "", complete=True))
    with (
        ImageDirectory(str(tmp_path / "images"), create=True) as images,
        Dump(
            criu,
            payload.facts(),
            Request(lazy_pages=True),
            cgroup=payload.record["cgroup"],
            images=images,
            lazy=left_out,
        ) as dump,
    ):
        with pytest.raises(CriuError):
            dump.run({"post-dump": lambda _: False})
        dump.close()
        dump.fence.thaw()
    left_out.close()
    assert payload.status == "running"
    ticks = payload.number("ticks")
    eventually(lambda: payload.number("ticks") > ticks, "it runs on")
