"""Whether two hosts have the same: digests of trees, and markers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.live.volumes.alike import MARKER_PREFIX, marker, read_marker, tree_digest
from tests.live.filesystem.test_sync import fill


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    """Two trees of everything, alike but for their times."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    fill(one)
    subprocess.run(["cp", "-a", one, other], check=True)
    for path in other.rglob("*"):
        os.utime(path, ns=(1, 1), follow_symlinks=False)
    return one, other


def test_trees_that_are_alike_have_one_digest(twins: tuple[Path, Path]) -> None:
    one, other = twins
    assert tree_digest(str(one)) == tree_digest(str(other))
    assert tree_digest(str(one / "empty"), is_file=True) == tree_digest(
        str(other / "empty"), is_file=True
    )


def overwrite(path: Path) -> None:
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/")


def split_off(path: Path) -> None:
    whole = path.read_bytes()
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(whole)
    path.chmod(mode)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte, times kept": lambda root: overwrite(root / "etc/passwd"),
    "a mode": lambda root: (root / "etc").chmod(0o700),
    "the mode of the root": lambda root: root.chmod(0o700),
    "an owner": lambda root: os.chown(root / "empty", 1, 0),
    "an attribute": lambda root: os.setxattr(root / "etc", "user.note", b"other"),
    "a name": lambda root: (root / "empty").rename(root / "emptied"),
    "a link's target": lambda root: point_elsewhere(root / "absolute"),
    "one more": lambda root: (root / "more").touch(),
    "one less": lambda root: (root / "fifo").unlink(),
    "a hard link": lambda root: split_off(root / "bin/ls"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_differs_changes_the_digest(
    twins: tuple[Path, Path], change: Callable[[Path], object]
) -> None:
    one, other = twins
    change(other)
    assert tree_digest(str(one)) != tree_digest(str(other))


def test_a_file_counts_without_its_name_and_with_its_content(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "else")):
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("a")
    a, b, c, link = (
        tree_digest(str(tmp_path / name), is_file=True) for name in ("a", "b", "c", "link")
    )
    assert a == b == link != c


def test_a_marker_is_seen_where_it_was_put_and_leaves_no_trace(tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(5, 5))
    with marker(str(tmp_path)) as (name, text):
        assert name.startswith(MARKER_PREFIX)
        assert read_marker(str(tmp_path), name) == text
        assert read_marker("/", name) == ""
    assert read_marker(str(tmp_path), name) == ""
    assert os.listdir(tmp_path) == []
    assert tmp_path.stat().st_mtime_ns == 5


def test_where_none_can_be_written_there_is_no_marker(tmp_path: Path) -> None:
    with marker(str(tmp_path / "missing")) as found:
        assert found == ("", "")
    with marker("/proc") as found:
        assert found == ("", "")


def test_only_markers_are_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / f"{MARKER_PREFIX}x").symlink_to("secret")
    assert read_marker(str(tmp_path), "secret") == ""
    assert read_marker(str(tmp_path), f"{MARKER_PREFIX}/../secret") == ""
    assert read_marker(str(tmp_path), f"{MARKER_PREFIX}x") == ""
