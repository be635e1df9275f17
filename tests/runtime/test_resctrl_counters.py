"""What a class of service uses, in a folder laid out as resctrl is: few processors have it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate.runtime import events, resctrl_counters
from tests.runtime.test_state import record_of

INFO = {
    "info/L3/cbm_mask": "fffff",
    "info/L3/min_cbm_bits": "1",
    "info/L3/num_closids": "16",
    "info/MB/bandwidth_gran": "10",
    "info/MB/delay_linear": "1",
    "info/MB/min_bandwidth": "10",
    "info/MB/num_closids": "8",
}
SCHEMATA = {
    "schemata": "    MB:0=100;1=100\n    L3:0=fffff;1=fffff",
    "box/schemata": "    MB:0=20;1=70\n    L3:0=7f0;1=1f",
}
MONITORED = {"info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes"}


def used(group: str, number: int) -> dict[str, str]:
    """The counters of two domains of a group."""
    return {
        f"{group}/mon_data/mon_L3_{domain:02}/{name}": str(number + domain)
        for domain in (0, 1)
        for name in MONITORED["info/L3_MON/mon_features"].split()
    }


def laid_out(root: Path, *parts: dict[str, str]) -> str:
    """Write the files of a resctrl, and return the group `box` in it."""
    for part in parts:
        for name, text in part.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{text}\n")
    return f"{root}/box"


def test_all_that_a_processor_may_have_is_there_in_runcs_order(tmp_path: Path) -> None:
    group = laid_out(tmp_path, INFO, SCHEMATA, MONITORED, used("box", 100))
    found = resctrl_counters.read({"group": group})
    assert list(found.items()) == [
        ("l3_cache_info", {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16}),
        ("l3_cache_schema_root", "L3:0=fffff;1=fffff"),
        ("l3_cache_schema", "L3:0=7f0;1=1f"),
        (
            "mem_bw_info",
            {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
        ),
        ("mem_bw_schema_root", "MB:0=100;1=100"),
        ("mem_bw_schema", "MB:0=20;1=70"),
        (
            "mbm_stats",
            [
                {"mbm_total_bytes": 100, "mbm_local_bytes": 100},
                {"mbm_total_bytes": 101, "mbm_local_bytes": 101},
            ],
        ),
        ("cmt_stats", [{"llc_occupancy": 100}, {"llc_occupancy": 101}]),
    ]


def test_what_the_processor_cannot_do_is_left_out(tmp_path: Path) -> None:
    cache = {name: text for name, text in INFO.items() if "/L3/" in name}
    few = {"info/L3_MON/mon_features": "llc_occupancy"}
    group = laid_out(tmp_path, cache, SCHEMATA, few, used("box", 5))
    assert resctrl_counters.read({"group": group}).keys() == {
        *("l3_cache_info", "l3_cache_schema_root", "l3_cache_schema", "cmt_stats"),
    }


def test_a_group_for_monitoring_counts_the_container_alone(tmp_path: Path) -> None:
    monitor = "box/mon_groups/one"
    group = laid_out(tmp_path, SCHEMATA, MONITORED, used("box", 100), used(monitor, 7))
    found = resctrl_counters.read({"group": group, "monitor": f"{tmp_path}/{monitor}"})
    assert found["cmt_stats"] == [{"llc_occupancy": 7}, {"llc_occupancy": 8}]


def test_a_counter_that_is_unavailable_is_zero_and_a_class_that_is_gone_says_nothing(
    tmp_path: Path,
) -> None:
    group = laid_out(tmp_path, MONITORED, {"box/mon_data/mon_L3_00/llc_occupancy": "Unavailable"})
    assert resctrl_counters.read({"group": group})["cmt_stats"] == [{"llc_occupancy": 0}]
    assert resctrl_counters.read({"group": f"{tmp_path}/nothing/box"}) == {}


@pytest.mark.parametrize("has_class", [True, False])
def test_events_have_them_where_the_container_has_a_class(
    tmp_path: Path, *, has_class: bool
) -> None:
    group = laid_out(tmp_path, INFO, SCHEMATA)
    record = record_of("a", os.getpid(), cgroup={})
    if has_class:
        record["rdt"] = {"group": group}
    found = events.counters(record)["data"]["intel_rdt"]
    assert found.get("mem_bw_schema") == ("MB:0=20;1=70" if has_class else None)
    assert bool(found) is has_class
