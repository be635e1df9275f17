"""What is removed with a tree, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate import syscalls
from migrate.errors import MigrationError
from migrate.live.removal import remove_tree

pytestmark = pytest.mark.root


def bind(source: Path, target: Path) -> None:
    syscalls.mount(str(source), str(target), None, syscalls.MS_BIND)


def test_a_deep_tree_with_links_and_odd_names_goes_whole(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    here = os.open(tmp_path, os.O_PATH)
    at = here
    try:
        os.mkdir("tree", dir_fd=at)
        at = os.open("tree", os.O_PATH, dir_fd=here)
        for depth in range(1500):
            os.mkdir(str(depth % 10), dir_fd=at)
            inner = os.open(str(depth % 10), os.O_PATH, dir_fd=at)
            os.close(at)
            at = inner
    finally:
        os.close(at)
        os.close(here)
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "pipe")
    os.link(outside / "kept", tree / "hard")
    Path(os.fsdecode(bytes(tree) + b"/\xff\n")).touch()
    remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_what_is_mounted_in_it_is_refused_and_untouched(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "precious").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "data").mkdir(parents=True)
    bind(volume, tree / "data")
    try:
        with pytest.raises(MigrationError, match="something is mounted on data"):
            remove_tree(str(tree))
        assert (volume / "precious").read_text() == "kept"
    finally:
        syscalls.umount2(str(tree / "data"))
    remove_tree(str(tree))
    assert not tree.exists()
    assert (volume / "precious").exists()


def test_a_file_with_a_mount_on_it_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    bind(precious, tree / "file")
    try:
        with pytest.raises(MigrationError, match="something is mounted on file"):
            remove_tree(str(tree))
    finally:
        syscalls.umount2(str(tree / "file"))
    assert precious.read_text() == "kept"


def test_a_link_in_the_place_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "tree").symlink_to(outside)
    with pytest.raises(MigrationError):
        remove_tree(str(tmp_path / "tree"))
    assert (outside / "kept").exists()


def test_a_missing_tree_is_no_error(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "none"))
    remove_tree(str(tmp_path / "none" / "below"))
