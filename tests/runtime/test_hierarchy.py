"""Where trees are, on hosts other than this one."""

from __future__ import annotations

import pytest

from migrate.runtime.cgroup import hierarchy

SYS = "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("mounts", "own", "place"),
    [
        # A host: the tree's root is mounted.
        ([("/", f"{SYS}/memory")], "/", (f"{SYS}/memory", f"{SYS}/memory")),
        ([("/", f"{SYS}/memory")], "/a/b", (f"{SYS}/memory", f"{SYS}/memory/a/b")),
        # A container without a cgroup namespace: its own group is mounted.
        ([("/docker/1", SYS)], "/docker/1", (SYS, SYS)),
        ([("/docker/1", SYS)], "/docker/1/x", (SYS, f"{SYS}/x")),
        ([("/docker/1", SYS)], "/docker/12", (SYS, SYS)),
        # A namespace whose mount, or whose process, is outside of it.
        ([("/../..", SYS)], "/", (SYS, SYS)),
        ([("/", SYS)], "/../other", (SYS, SYS)),
        # Several mounts of one tree: the usual place, then the one on top.
        ([("/", "/mnt"), ("/", SYS)], "/", (SYS, SYS)),
        ([("/", SYS), ("/", "/mnt")], "/", (SYS, SYS)),
        ([("/a", SYS), ("/", SYS)], "/a", (SYS, f"{SYS}/a")),
        ([("/", "/mnt")], "/", ("/mnt", "/mnt")),
        ([], "/", None),
    ],
)
def test_the_own_directory_is_found_in_the_best_mount(
    mounts: list[tuple[str, str]], own: str, place: tuple[str, str] | None
) -> None:
    assert hierarchy._place(mounts, own) == place


@pytest.mark.parametrize(
    ("mount_point", "own", "start"),
    [
        (SYS, SYS, SYS),
        # v2 has no processes in inner nodes: beside the caller, not below it.
        (SYS, f"{SYS}/user.slice/session.scope", f"{SYS}/user.slice"),
    ],
)
def test_on_v2_a_container_is_beside_the_caller(mount_point: str, own: str, start: str) -> None:
    trees = {"": hierarchy.Hierarchy("", mount_point, own)}
    assert hierarchy._start(trees[""], trees, "x") == start
    assert hierarchy._start(trees[""], trees, "/x") == mount_point


def test_on_v1_a_container_is_below_the_caller() -> None:
    tree = hierarchy.Hierarchy("memory", SYS, f"{SYS}/a")
    trees = {"memory": tree, "": hierarchy.Hierarchy("", "/u", "/u/a")}
    assert hierarchy._start(tree, trees, "x") == f"{SYS}/a"
    assert hierarchy._start(trees[""], trees, "x") == "/u/a"


def test_a_controller_is_found_where_it_is_mounted_with_others() -> None:
    paths = {"cpu,cpuacct": "/c", "name=systemd": "/s", "": "/u"}
    assert hierarchy.directory_of(paths, "cpuacct") == "/c"
    assert hierarchy.directory_of(paths, "name=systemd") == "/s"
    assert hierarchy.directory_of(paths, "memory") is None
    assert not hierarchy.is_unified(paths)
    assert hierarchy.is_unified({"": "/u"})


def test_names_in_mountinfo_are_unescaped() -> None:
    assert hierarchy._unescaped(r"/a\040b\011c\134d") == "/a b\tc\\d"
