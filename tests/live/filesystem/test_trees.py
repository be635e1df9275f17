"""Several trees as one: a root file system and its volumes, folders and single files."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from migrate.errors import MigrateError, ProtocolError
from migrate.live.filesystem.passes import PassReport
from migrate.live.filesystem.receiver import TreeReceiver
from migrate.live.filesystem.source import TreeSource
from migrate.live.filesystem.trees import SourceTrees, Tree, receive
from migrate.transport.link import Link

from .conftest import listing
from .test_sync import fill

Links = tuple[Link, Link]


@pytest.fixture
def both(tmp_path: Path) -> tuple[list[Tree], list[Tree]]:
    """A root file system, a folder and a file, here and there."""
    here, there = tmp_path / "here", tmp_path / "there"
    for side in (here, there):
        for name in ("rootfs", "data", "files"):
            (side / name).mkdir(parents=True)
    points: dict[str, dict[str, str]] = {"data": {"/data": "", "/in": "sub"}, "file": {"/f": ""}}

    def trees(side: Path) -> list[Tree]:
        return [
            Tree(label="rootfs", root=str(side / "rootfs")),
            Tree(label="volume/0", root=str(side / "data"), points=points["data"]),
            Tree(label="volume/1", root=str(side / "files"), only="conf", points=points["file"]),
        ]

    return trees(here), trees(there)


@contextmanager
def received(link: Link, trees: Sequence[Tree]) -> Iterator[list[BaseException]]:
    """Take the trees in for the length of the block, which must send the frozen pass."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            receive(link, trees)
        except MigrateError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failed
    finally:
        thread.join(20)
    assert not thread.is_alive()


def test_all_trees_arrive_and_a_file_comes_without_what_is_beside_it(
    links: Links, both: tuple[list[Tree], list[Tree]]
) -> None:
    here, there = both
    root, data, files = (Path(tree.root) for tree in here)
    fill(data)
    (root / "file").write_text("root")
    (files / "conf").write_text("conf")
    os.chown(files / "conf", 7, 8)
    os.setxattr(files / "conf", "user.note", b"kept")
    (files / "secret").write_text("not yours")
    theirs = Path(there[2].root)
    (theirs / "conf").write_text("old")
    (theirs / "own").write_text("stays")
    theirs.chmod(0o711)
    with received(links[1], there) as failed, SourceTrees(links[0], here) as trees:
        first = trees.run()
        assert first.entries > 20
        (data / "etc/passwd").write_text("changed")
        (files / "conf").write_text("again")
        last = trees.run(frozen=True, writing=())
    assert not failed
    assert (first.frozen, last.frozen) == (False, True)
    assert last.files == 2
    assert listing(Path(there[1].root)) == listing(data)
    assert (Path(there[0].root) / "file").read_text() == "root"
    assert sorted(os.listdir(theirs)) == ["conf", "own"]
    assert (theirs / "own").read_text() == "stays"
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o711
    arrived = theirs / "conf"
    assert (arrived.read_text(), arrived.stat().st_uid) == ("again", 7)
    assert os.getxattr(arrived, "user.note") == b"kept"


def test_what_neither_times_nor_events_tell_is_found_by_the_names_the_container_gives_it(
    links: Links, both: tuple[list[Tree], list[Tree]]
) -> None:
    here, there = both
    data = Path(here[1].root)
    (data / "sub").mkdir()
    names = ("sub/mapped", "mapped")
    for name in names:
        (data / name).write_bytes(bytes(4096))
    (Path(here[2].root) / "conf").write_bytes(bytes(4096))
    paths = [*(data / name for name in names), Path(here[2].root) / "conf"]
    held = [
        (inside, path.stat().st_ino)
        for inside, path in zip(("/in/mapped", "/data/mapped", "/f"), paths, strict=True)
    ]
    with ExitStack() as stack:
        maps = []
        for path in paths:
            file = stack.enter_context(open(path, "r+b"))
            maps.append(stack.enter_context(mmap.mmap(file.fileno(), 4096)))
        for each in maps:
            each[0] = 1  # the page is dirty: what follows changes no time
        with received(links[1], there) as failed, SourceTrees(links[0], here) as trees:
            trees.run()
            for each in maps:
                each[1] = 2
            trees.run(frozen=True, mapped=held, writing=())
    assert not failed
    assert (Path(there[1].root) / "mapped").read_bytes()[:2] == b"\1\2"
    assert (Path(there[1].root) / "sub/mapped").read_bytes()[:2] == b"\1\2"
    assert (Path(there[2].root) / "conf").read_bytes()[:2] == b"\1\2"


def test_a_file_that_is_rewritten_with_its_size_and_time_kept_arrives(
    links: Links, both: tuple[list[Tree], list[Tree]]
) -> None:
    here, there = both
    files = [Path(here[1].root) / "file", Path(here[2].root) / "conf"]
    for file in files:
        file.write_text("before")
    with received(links[1], there) as failed, SourceTrees(links[0], here) as trees:
        trees.run()
        for file in files:
            times = file.stat()
            with open(file, "r+") as opened:
                opened.write("after!")
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        trees.run(frozen=True, writing=())
    assert not failed
    assert (Path(there[1].root) / "file").read_text() == "after!"
    assert (Path(there[2].root) / "conf").read_text() == "after!"


def test_files_that_tasks_hold_are_known_by_where_their_tree_is_mounted() -> None:
    tree = Tree(label="v", root="/x", points={"/data": "", "/in": "sub", "/": "all"})
    assert tree.held([("/data/a", 1), ("/in/b/c", 2)]) == [
        ("a", 1),
        ("all/data/a", 1),
        ("sub/b/c", 2),
        ("all/in/b/c", 2),
    ]
    assert Tree(label="v", root="/x", points={"/data": ""}).held([("/database", 1)]) == []
    assert Tree(label="v", root="/x").held([("/a", 1)]) == [("/a", 1)]


def run_both(source: TreeSource, receiver: TreeReceiver) -> PassReport:
    """One frozen pass; raises what the receiver raises."""
    failed: list[Exception] = []

    def take() -> None:
        try:
            receiver.run()
        except MigrateError as error:
            failed.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        return source.run(frozen=True)
    finally:
        thread.join(20)
        if failed:
            raise failed[0]


def test_another_file_than_the_one_agreed_on_is_refused(links: Links, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "shadow").write_text("x")
    with (
        TreeSource(links[0], "v", str(here)) as source,
        TreeReceiver(links[1], "v", str(there), only="conf") as receiver,
        pytest.raises(ProtocolError, match="shadow is not conf"),
    ):
        run_both(source, receiver)
    assert os.listdir(there) == []


def test_the_marks_of_a_layer_travel_with_a_layer_only(
    links: Links, overlay: Path, tmp_path: Path
) -> None:
    (overlay / "removed").unlink()
    (overlay / "opaque/old").unlink()
    (overlay / "opaque").rmdir()
    (overlay / "opaque").mkdir()
    (overlay / "lower-only").write_text("anew")
    upper, there = tmp_path / "upper", tmp_path / "there"
    there.mkdir()
    with (
        TreeSource(links[0], "rootfs", str(upper), layer=True) as source,
        TreeReceiver(links[1], "rootfs", str(there), layer=True) as receiver,
    ):
        run_both(source, receiver)
    assert stat.S_ISCHR((there / "removed").lstat().st_mode)
    assert (there / "removed").lstat().st_rdev == 0
    assert os.getxattr(there / "opaque", "trusted.overlay.opaque") == b"y"
    assert "trusted.overlay.origin" in os.listxattr(upper / "lower-only")
    assert "trusted.overlay.origin" not in os.listxattr(there / "lower-only")
    plain = tmp_path / "plain"
    plain.mkdir()
    with (
        TreeSource(links[0], "again", str(upper), layer=True) as source,
        TreeReceiver(links[1], "again", str(plain)) as receiver,
        pytest.raises(ProtocolError, match="is no layer"),
    ):
        run_both(source, receiver)
    assert os.listdir(plain) == []


def test_what_is_written_into_a_layer_through_its_overlay_is_found(
    links: Links, overlay: Path, tmp_path: Path
) -> None:
    upper, there = tmp_path / "upper", tmp_path / "there"
    there.mkdir()
    (overlay / "changed").write_text("one")
    trees = [Tree(label="rootfs", root=str(upper), layer=True)]
    with (
        received(links[1], [Tree(label="rootfs", root=str(there), layer=True)]) as failed,
        SourceTrees(links[0], trees) as source,
        open(overlay / "changed", "r+b") as file,
    ):
        source.run()
        os.pwrite(file.fileno(), b"two", 0)
        source.run(frozen=True, writing=())
    assert not failed
    assert (there / "changed").read_text() == "two"
