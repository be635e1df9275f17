"""Classes of service, in a folder laid out as resctrl is: few processors have the real one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import ConfigError, StageError
from migrate.runtime import resctrl
from migrate.runtime.spec import belongings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "info").mkdir()
    return tmp_path


def group(root: Path, name: str, schemata: str = "") -> Path:
    """A class as the kernel makes one: with files of its own."""
    path = root / name
    (path / "mon_groups").mkdir(parents=True)
    (path / "schemata").write_text(schemata)
    (path / "tasks").write_text("")
    return path


def record(root: Path, rdt: Any) -> Any:
    made: Any = {"id": "box"}
    resctrl.plan(made, rdt, str(root))
    return made


def test_without_a_name_the_class_is_the_containers_and_ends_with_it(root: Path) -> None:
    assert record(root, {})["rdt"] == {"group": f"{root}/box", "made": f"{root}/box"}
    assert record(root, {"closID": "gold"})["rdt"] == {"group": f"{root}/gold"}
    assert record(root, {"closID": "/"})["rdt"] == {"group": str(root)}
    group(root, "box")
    assert record(root, {})["rdt"] == {"group": f"{root}/box"}, "made by somebody else"


def test_the_schemata_come_in_the_specs_order_and_the_process_last(root: Path) -> None:
    made = group(root, "box")
    rdt: Any = {"l3CacheSchema": "L3:0=f", "schemata": ["L2:0=3"]}
    resctrl.enter(record(root, rdt), rdt, os.getpid())
    # Each line is a write of its own; a plain file shows them one over the other.
    assert (made / "schemata").read_text() == "L2:0=3\n"
    assert (made / "tasks").read_text() == str(os.getpid())


def test_a_class_that_is_there_must_say_the_same(root: Path) -> None:
    made = group(root, "gold", "    MB:0=100;1=100\n    L3:0=07f0;1=001f\n")
    same: Any = {"closID": "gold", "schemata": ["L3:0=7f0;1=1F", "MB:1=100"]}
    resctrl.enter(record(root, same), same, 1)
    assert (made / "tasks").read_text() == "1"
    other: Any = {"closID": "gold", "l3CacheSchema": "L3:0=ff"}
    with pytest.raises(StageError, match="differs from L3:0=ff"):
        resctrl.enter(record(root, other), other, 1)


def test_a_named_class_without_schemata_must_be_there(root: Path) -> None:
    rdt: Any = {"closID": "gold"}
    with pytest.raises(StageError, match="there is no class gold"):
        resctrl.enter(record(root, rdt), rdt, 1)
    assert not (root / "gold").exists()


def test_monitoring_has_a_group_of_the_containers_that_ends_with_it(root: Path) -> None:
    made = group(root, "gold")
    rdt: Any = {"closID": "gold", "enableMonitoring": True}
    entry = record(root, rdt)
    monitor = made / "mon_groups/box"
    monitor.mkdir()
    (monitor / "tasks").write_text("")
    resctrl.enter(entry, rdt, 7)
    assert (monitor / "tasks").read_text() == "7"
    (monitor / "tasks").unlink()  # the kernel's files go with their group
    assert resctrl.leave(entry) == []
    assert not monitor.exists()
    assert made.exists()


def test_other_schemata_are_written_to_the_class_it_has(root: Path) -> None:
    made = group(root, "box")
    entry = record(root, {})
    resctrl.update(entry, {"memBwSchema": "MB:0=20"}, str(root))
    assert (made / "schemata").read_text() == "MB:0=20\n"
    without: Any = {"id": "box", "pid": 9}
    resctrl.update(without, {"l3CacheSchema": "L3:0=f"}, str(root))
    assert without["rdt"]["group"] == str(made)
    assert (made / "tasks").read_text() == "9"


def test_leaving_twice_is_no_problem_and_what_stays_is_said(root: Path) -> None:
    entry = record(root, {})
    assert resctrl.leave(entry) == []
    group(root, "box")
    assert "box stays: directory not empty" in resctrl.leave(entry)[0]


@pytest.mark.parametrize(
    ("rdt", "message"),
    [
        ({"closID": ".."}, "no name of a class"),
        ({"closID": "a/b"}, "no name of a class"),
        ({"l3CacheSchema": "L3:0=f\nMB:0=1"}, "more than one line"),
        ({"schemata": ["L3:0=f", "a\nb"]}, r"schemata\[1\]: has more than one line"),
        ({"memBwSchema": "L3:0=f"}, "does not begin with"),
    ],
)
def test_a_class_that_cannot_be_meant_is_refused(rdt: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        belongings.check_rdt(rdt, has_resctrl=True)


def test_without_resctrl_it_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"\$\.linux\.intelRdt: .*no resctrl file system"):
        belongings.check_rdt({}, has_resctrl=False)
    assert resctrl.mount_point() is None or Path(resctrl.DEFAULT).is_dir()
