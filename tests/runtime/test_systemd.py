"""What a container's unit is called, where it is, and what its limits are in systemd's words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import CgroupError
from migrate.runtime.cgroup.devices import rules
from migrate.runtime.systemd import device_allow, names, properties

INFINITY = (1 << 64) - 1
TREES = {"memory": "/sys/fs/cgroup/memory", "": "/sys/fs/cgroup/unified"}


def of(resources: dict[str, Any], *, unified: bool = True, version: int = 252) -> dict[str, Any]:
    """The properties of limits, as a mapping."""
    found = properties.of_resources(resources, unified=unified, version=version, devices=False)
    return {name: value for name, (_, value) in found}


@pytest.mark.parametrize(
    ("path", "unit", "slice_name"),
    [
        (None, "runc-web.scope", "system.slice"),
        ("", "runc-web.scope", "system.slice"),
        ("machine.slice:libpod:7f", "libpod-7f.scope", "machine.slice"),
        (":docker:7f", "docker-7f.scope", "system.slice"),
        ("kubepods-pod1.slice:cri-containerd:7f", "cri-containerd-7f.scope", "kubepods-pod1.slice"),
        ("a.slice:x:b.slice", "b.slice", "a.slice"),
        ("-.slice:x:y", "x-y.scope", "-.slice"),
    ],
)
def test_the_path_is_read_as_runc_reads_it(path: str | None, unit: str, slice_name: str) -> None:
    assert names.unit_and_slice(path, "web", "system.slice") == (unit, slice_name)


def test_an_id_that_no_unit_can_be_called_by_is_escaped() -> None:
    assert names.unit_and_slice(None, "a+b", "x.slice")[0] == "runc-a\\x2bb.scope"


@pytest.mark.parametrize(
    ("slice_name", "below"),
    [
        ("a.slice", "a.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
    ],
)
def test_a_dash_in_a_slice_is_a_step_down(slice_name: str, below: str) -> None:
    assert names.below(slice_name) == below


@pytest.mark.parametrize(
    "name", ["", ".slice", "a", "a--b.slice", "-a.slice", "../a.slice", "a/b.slice"]
)
def test_what_is_no_slice_is_refused(name: str) -> None:
    with pytest.raises(CgroupError):
        names.below(name)


def test_the_directories_are_below_the_managers_own_group() -> None:
    found = names.directories(TREES, "/user.slice/u.service", "x-y.scope", "a-b.slice")
    inner = "user.slice/u.service/a.slice/a-b.slice/x-y.scope"
    assert found == {key: f"{point}/{inner}" for key, point in TREES.items()}
    assert names.directories({"": "/c"}, "", "x.scope", "-.slice") == {"": "/c/x.scope"}
    assert names.directories({"": "/c"}, "/", "a-b.slice", "z.slice") == {
        "": "/c/a.slice/a-b.slice"
    }


@given(st.text(max_size=40), st.text(max_size=10))
def test_no_path_leads_out_of_the_trees(path: str, container_id: str) -> None:
    try:
        unit, slice_name = names.unit_and_slice(path, container_id, "system.slice")
    except CgroupError:
        return
    found = names.directories({"": "/c"}, "", unit, slice_name)[""]
    parts = found.split("/")
    assert parts[:2] == ["", "c"]
    assert ".." not in parts
    assert parts[-1] == unit


@pytest.mark.parametrize(
    ("quota", "period", "in_a_second"),
    [
        (50_000, 100_000, 500_000),
        (50_000, 0, 500_000),
        (33_333, 100_000, 340_000),
        (-1, 50_000, INFINITY),
    ],
)
def test_a_quota_is_time_in_a_second_rounded_up_to_a_percent(
    quota: int, period: int, in_a_second: int
) -> None:
    assert of({"cpu": {"quota": quota, "period": period}})["CPUQuotaPerSecUSec"] == in_a_second


@pytest.mark.parametrize(
    ("resources", "unified", "version", "expected"),
    [
        ({"memory": {"limit": 7}}, True, 252, {"MemoryMax": 7}),
        ({"memory": {"limit": -1}}, False, 252, {"MemoryMax": INFINITY}),
        ({"memory": {"limit": 4, "swap": 9}}, True, 252, {"MemoryMax": 4, "MemorySwapMax": 5}),
        ({"memory": {"limit": 4, "swap": 9, "reservation": 2}}, False, 252, {"MemoryMax": 4}),
        ({"memory": {"reservation": 2}}, True, 252, {"MemoryLow": 2}),
        ({"cpu": {"shares": 1024}}, True, 252, {"CPUWeight": 39}),
        ({"cpu": {"shares": 1024}}, False, 252, {"CPUShares": 1024}),
        ({"cpu": {"shares": 1}}, False, 252, {"CPUShares": 2}),
        ({"cpu": {"idle": 1, "shares": 5}}, True, 252, {"CPUWeight": 0}),
        ({"cpu": {"idle": 1}}, True, 251, {}),
        ({"pids": {"limit": 9}}, True, 252, {"TasksMax": 9}),
        ({"pids": {"limit": -1}}, True, 252, {"TasksMax": INFINITY}),
        ({"blockIO": {"weight": 10}}, True, 252, {"IOWeight": 1}),
        ({"blockIO": {"weight": 10}}, False, 252, {"BlockIOWeight": 10}),
        (
            {"cpu": {"cpus": "0-2,9", "mems": "0"}},
            True,
            252,
            {"AllowedCPUs": b"\x07\x02", "AllowedMemoryNodes": b"\x01"},
        ),
        (
            {"unified": {"memory.high": "5", "pids.max": "max", "io.max": "8:0 rbps=1"}},
            True,
            252,
            {"MemoryHigh": 5, "TasksMax": INFINITY},
        ),
        (
            {"unified": {"cpu.max": "max 50000"}},
            True,
            252,
            {"CPUQuotaPeriodUSec": 50_000, "CPUQuotaPerSecUSec": INFINITY},
        ),
        ({"unified": {"cpuset.cpus": "1"}}, True, 252, {"AllowedCPUs": b"\x02"}),
    ],
)
def test_a_limit_is_a_property(
    resources: dict[str, Any], *, unified: bool, version: int, expected: dict[str, Any]
) -> None:
    assert of(resources, unified=unified, version=version) == expected


@given(st.sets(st.integers(0, 600), min_size=1))
def test_a_list_of_processors_is_its_bits(numbers: set[int]) -> None:
    bits = int.from_bytes(properties.mask(",".join(map(str, sorted(numbers)))), "little")
    assert {at for at in range(bits.bit_length()) if bits >> at & 1} == numbers


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "1:2", "999999", "\uff11"])
def test_what_is_no_list_of_processors_is_refused(text: str) -> None:
    with pytest.raises(CgroupError):
        properties.mask(text)


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30)))
def test_annotations_set_a_known_property_or_are_refused_or_are_none(texts: dict[str, str]) -> None:
    annotations = {f"{properties.ANNOTATION}{key}": value for key, value in texts.items()}
    try:
        found = properties.of_annotations(annotations | texts)
    except CgroupError:
        return
    assert {name for name, _ in found} <= set(properties.ANNOTATIONS)


def test_seconds_of_an_annotation_become_microseconds() -> None:
    key = f"{properties.ANNOTATION}TimeoutStopSec"
    assert properties.of_annotations({key: "uint64 5"}) == [("TimeoutStopUSec", ("t", 5_000_000))]


def allowed(devices: list[dict[str, Any]], *, unified: bool) -> tuple[str, list[tuple[str, str]]]:
    """DevicePolicy, and the last DeviceAllow."""
    found = device_allow.of(devices, unified=unified)
    return found[0][1][1], found[-1][1][1]


def test_rules_that_come_to_a_list_are_that_list() -> None:
    closed = {"allow": False, "access": "rwm"}
    disk = {"allow": True, "type": "b", "major": 8, "access": "r"}
    policy, entries = allowed([closed, disk], unified=True)
    assert policy == "strict"
    assert entries[0] == ("block-8", "r")
    assert ("/dev/char/1:3", "rwm") in entries
    assert ("char-136", "rwm") in entries


def test_what_opens_everything_closes_nothing() -> None:
    assert allowed([{"allow": True, "access": "rwm"}], unified=False) == ("auto", [])


@pytest.mark.parametrize(("unified", "policy"), [(True, "auto"), (False, "strict")])
def test_rules_that_close_a_part_are_left_to_the_kernels_own(*, unified: bool, policy: str) -> None:
    everything = {"allow": True, "access": "rwm"}
    but_one = {"allow": False, "type": "c", "major": 10, "minor": 200, "access": "rwm"}
    assert allowed([everything, but_one], unified=unified) == (policy, [])


_NUMBERS = st.one_of(st.none(), st.integers(0, 2))
_RULES = st.fixed_dictionaries(
    {
        "allow": st.booleans(),
        "type": st.sampled_from(["c", "b", "a"]),
        "major": _NUMBERS,
        "minor": _NUMBERS,
        "access": st.sampled_from(["r", "rw", "rwm", "m"]),
    }
)


def decides(devices: list[dict[str, Any]], kind: str, major: int, minor: int, access: str) -> bool:
    """Whether the ordered rules allow one access: the last that matches says."""
    answer = False
    for rule in rules(devices):
        if rule.kind == "a" or (
            rule.kind == kind
            and rule.major in (-1, major)
            and rule.minor in (-1, minor)
            and access in rule.access
        ):
            answer = rule.allow
    return answer


@given(
    st.lists(_RULES, max_size=5),
    st.sampled_from("cb"),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from("rwm"),
)
def test_systemds_list_never_closes_on_v2_what_the_rules_open(
    devices: list[dict[str, Any]], kind: str, major: int, minor: int, access: str
) -> None:
    policy, entries = allowed(devices, unified=True)
    if policy == "auto" or not decides(devices, kind, major, minor, access):
        return
    long = {"c": "char", "b": "block"}[kind]
    names_of = {f"{long}-*", f"{long}-{major}", f"/dev/{long}/{major}:{minor}"}
    assert any(name in names_of and access in letters for name, letters in entries)
