"""The rules by which a volume travels: pure."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.live.volumes.decide import Decision, Sight, decide
from migrate.live.volumes.volume import Seen, Volume


def sight(
    source: str = "/data", *, alike: bool | None = None, shared: bool = False, **fields: Any
) -> Sight:
    """What is known of a volume; fields of `Seen` begin with `at_`."""
    seen = {key[3:]: fields.pop(key) for key in list(fields) if key.startswith("at_")}
    values = {
        "points": (source,),
        "there": source,
        "kind": "folder",
        "is_writable": True,
        **fields,
    }
    return Sight(
        volume=Volume(source=source, **values),
        seen=Seen(**{"free_bytes": 1 << 40, **seen}),
        is_alike=alike,
        is_shared=shared,
    )


def decided(*sights: Sight) -> list[Decision]:
    return decide(list(sights), here="host1", there="host2")


def words(decision: Decision) -> str:
    return " / ".join(f"{each.verdict}: {each.message}" for each in decision.findings)


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (sight(is_in_bundle=True), "sync"),
        (sight(is_of_kernel=True, at_kind="folder"), "exists"),
        (sight(kind="other", device="c 1:3", at_kind="other", at_device="c 1:3"), "exists"),
        (sight(shared=True, at_kind="folder"), "shared"),
        (sight(is_writable=False, at_kind="folder", alike=True), "exists"),
        (sight(asked="sync"), "sync"),
        (sight(asked="sync", at_kind="folder", at_is_empty=True), "sync"),
        (sight(asked="sync", at_kind="folder", at_is_left=True), "sync"),
        (sight(asked="exists", at_kind="folder"), "exists"),
        (sight(asked="skip", at_kind="folder"), "skip"),
    ],
)
def test_what_is_safe_or_asked_for_is_done(given: Sight, policy: str) -> None:
    (decision,) = decided(given)
    assert decision.policy == policy
    assert decision.findings


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (sight(), "not known what shall become"),
        (sight(at_kind="folder", at_is_empty=True), "not known what shall become"),
        (sight(is_writable=False), "is not on host2"),
        (sight(is_writable=False, at_kind="folder", alike=False), "another content"),
        (sight(is_writable=False, at_kind="folder"), "too large to be compared"),
        (sight(is_writable=False, at_kind="file"), "is not what it is here"),
        (sight(kind="other", device="c 1:3"), "/data is not on host2"),
        (
            sight(kind="other", device="c 1:3", at_kind="other", at_device="c 1:5"),
            "not what it is here, a c 1:3",
        ),
        (sight(asked="sync", kind="other"), "no content that can be copied"),
        (sight(asked="sync", is_of_kernel=True), "no content that can be copied"),
        (sight(asked="sync", at_kind="file"), "is a folder"),
        (sight(asked="sync", at_kind="folder"), "is not empty"),
        (sight(asked="sync", at_kind="folder", at_is_left=True, at_user="web"), '"web"'),
        (sight(asked="sync", size_bytes=2 << 40), "has 1048576 MiB there"),
        (sight(asked="sync", is_replaced=True), "was replaced on host1"),
        (sight(asked="shared", at_kind="folder"), "is not seen"),
        (sight(asked="shared", kind="other", at_kind="other"), "be shown to be shared"),
        (sight(asked="exists"), "is not on host2"),
        (sight(asked="skip", open_inside="process 7 has /data open"), "process 7"),
        (sight(asked="skip", kind="other"), "replaced by an empty folder"),
    ],
)
def test_what_would_lose_something_is_refused_with_a_way_out(given: Sight, reason: str) -> None:
    (decision,) = decided(given)
    assert decision.policy is None
    assert reason in words(decision)
    assert all(each.hint for each in decision.findings if each.verdict == "refuse")


def test_two_that_fit_alone_and_not_together_are_refused() -> None:
    half: dict[str, Any] = {"asked": "sync", "size_bytes": 600 << 30, "at_disk": "1"}
    first, second = decided(sight("/a", **half), sight("/b", **half))
    assert first.policy == "sync"
    assert second.policy is None


def test_one_within_a_copied_one_comes_along_where_it_would_be() -> None:
    outer = sight("/data", asked="sync", there="/moved")
    _, inner = decided(outer, sight("/data/inner", there="/moved/inner"))
    assert (inner.policy, inner.within) == ("sync", "/data")


@pytest.mark.parametrize(("outer", "inner"), [("skip", "exists"), ("exists", "skip")])
def test_a_mount_that_came_along_has_no_place_in_an_empty_folder(outer: str, inner: str) -> None:
    around = sight("/data", asked=outer, at_kind="folder")
    below = sight("/data/inner", asked=inner, around="/data", is_mount=True, at_kind="folder")
    _, decision = decided(around, below)
    assert decision.policy is None
    assert "came along with /data" in words(decision)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ({"is_mount": True}, "a mount of its own"),
        ({"asked": "exists"}, "cannot be exists"),
        ({"there": "/elsewhere"}, "cannot be /elsewhere on host2"),
        ({"kind": "other"}, "no file with content"),
    ],
)
def test_one_within_a_copied_one_that_cannot_come_along_is_refused(
    inner: dict[str, Any], reason: str
) -> None:
    _, decision = decided(sight("/data", asked="sync"), sight("/data/inner", **inner))
    assert decision.policy is None
    assert reason in words(decision)
