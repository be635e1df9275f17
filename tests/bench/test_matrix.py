"""What the matrix measures is there: the link's rate, CRIU alone, each way over the link."""

from __future__ import annotations

from typing import get_args

import pytest

from bench import cells, link_rate, matrix, raw_criu
from bench.throughput import CAT
from tests.support.hosts import Site
from tests.support.processes import CommandError


def test_a_link_has_its_rate_in_both_directions_while_the_block_lasts(hosts: Site) -> None:
    ends = [hosts.host1, hosts.host2]

    def rates() -> list[str]:
        return [host.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout for host in ends]

    before = rates()
    assert set(link_rate.RATES) == set(get_args(cells.Link)) == set(cells.LINKS)
    with link_rate.limited(ends, "100 Mbit/s"):
        assert all("tbf" in line and "rate 100Mbit" in line for line in rates())
    assert rates() == before
    with link_rate.limited(ends, cells.UNLIMITED):
        assert rates() == before


def test_criu_alone_leaves_nothing_behind(hosts: Site) -> None:
    (raw,) = raw_criu.measure(hosts, 1)
    assert raw["frozen_seconds"] > 0
    assert raw["restore_seconds"] > 0
    assert not hosts.host1.folder(raw_criu.FOLDER).exists()
    assert not hosts.host1.folder(raw_criu.ROOT).exists()


def test_the_same_file_goes_each_way(hosts: Site) -> None:
    rates = matrix.throughput(hosts, 2, 1)
    assert set(rates) == {CAT, "paramiko", "openssh"}
    assert all(len(each) == 1 and each[0] > 0 for each in rates.values())


def test_a_cell_is_moved_and_one_without_room_says_so(
    hosts: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [
        cells.unmeasured(0, 0, cells.UNLIMITED, "stop-copy"),
        cells.unmeasured(1 << 30, 0, cells.UNLIMITED, "script"),
    ]
    measured = matrix.planned(plan)
    said: list[str] = []

    def refuses(*_: object) -> list[raw_criu.Raw]:
        raise CommandError("first\ncriu: cannot")

    monkeypatch.setattr(raw_criu, "measure", refuses)
    monkeypatch.setattr(matrix, "LINK_MIB", 1)
    matrix.measure(hosts, measured, 1, "mixed", said.append)
    assert [len(cell["runs"]) for cell in plan] == [1, 0]
    assert plan[0]["left_out"] == ""
    assert "needs" in plan[1]["left_out"]
    run = plan[0]["runs"][0]
    assert 0 < run["source_cpu_seconds"] < run["cpu_seconds"]
    assert measured["failed"] == {"raw_criu": "criu: cannot"}
    assert any("left out" in line for line in said)
