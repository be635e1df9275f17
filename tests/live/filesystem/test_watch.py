"""The last pass looks only where something happened, and still misses nothing."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
from pathlib import Path

import pytest

from migrate.live.filesystem.mapped import open_for_writing
from migrate.live.filesystem.watch import Watch

from .conftest import Sync, listing


def listed(sync: Sync, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that are looked into from now on, by path."""
    inventory = sync.source._inventory
    original = inventory._enter
    paths: list[str] = []

    def enter(directory: int, *arguments: object, still: bool) -> int | None:
        paths.append(inventory.path(directory))
        return original(directory, *arguments, still=still)  # type: ignore[arg-type]

    monkeypatch.setattr(inventory, "_enter", enter)
    return paths


def test_only_directories_with_events_are_looked_into(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "two/deep", "three"):
        (sync.here / name).mkdir()
        (sync.here / name / "file").write_text(name)
    sync.run()
    (sync.here / "two/deep/file").write_text("changed")
    (sync.here / "three/new").mkdir()
    (sync.here / "three/new/file").write_text("new")
    paths = listed(sync, monkeypatch)
    sync.run(frozen=True, writing=())
    assert sorted(paths) == ["three", "three/new", "two/deep"]
    assert listing(sync.there) == listing(sync.here)


def test_nothing_happened_and_nothing_is_looked_into(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sync.here / "file").write_text("x")
    sync.run()
    paths = listed(sync, monkeypatch)
    report = sync.run(frozen=True, writing=())
    assert (paths, report.changed, report.files) == ([], 0, 0)


def test_a_renamed_directory_is_followed_with_all_that_is_in_it(sync: Sync) -> None:
    (sync.here / "a/b/c").mkdir(parents=True)
    (sync.here / "a/b/c/file").write_text("x")
    (sync.here / "other").mkdir()
    sync.run()
    (sync.here / "a/b").rename(sync.here / "other/moved")
    sync.run()
    (sync.here / "other/moved/c/file").write_text("changed after the move")
    (sync.here / "other").rename(sync.here / "a/again")
    sync.run(frozen=True, writing=())
    assert listing(sync.there) == listing(sync.here)


def test_lost_events_mean_that_everything_is_looked_at(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sync.here / "directory").mkdir()
    (sync.here / "file").write_text("x")
    sync.run()
    for number in range(20_000):  # two events each that cannot be merged; 16384 are kept
        os.utime(sync.here / ("file" if number % 2 else "directory"), ns=(number, number))
    (sync.here / "directory/late").write_text("after the overflow")
    paths = listed(sync, monkeypatch)
    sync.run(frozen=True, writing=())
    assert paths == ["", "directory"]
    assert listing(sync.there) == listing(sync.here)


def test_a_write_by_a_name_outside_the_tree_is_found(sync: Sync, tmp_path: Path) -> None:
    (sync.here / "directory").mkdir()
    (sync.here / "directory/file").write_text("x")
    os.link(sync.here / "directory/file", tmp_path / "outside")
    sync.run()
    (tmp_path / "outside").write_text("changed")
    sync.run(frozen=True, writing=())
    assert (sync.there / "directory/file").read_text() == "changed"


def test_a_mapping_that_came_and_went_is_found_by_the_closing_of_its_file(sync: Sync) -> None:
    path = sync.here / "file"
    path.write_bytes(bytes(100_000))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 1  # the page is dirty: what follows leaves the times alone
        sync.run()
        mapping[1] = 1
    sync.run(frozen=True, writing=())
    assert (sync.there / "file").read_bytes() == path.read_bytes()


def submit_write(fd: int, data: bytes) -> None:
    """Write by asynchronous I/O, see io_submit(2); no event tells of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    setup, destroy, get_events, submit = 206, 207, 208, 209
    context = ctypes.c_ulong()
    assert libc.syscall(setup, 1, ctypes.byref(context)) == 0
    buffer = ctypes.create_string_buffer(data, len(data))
    block = ctypes.create_string_buffer(
        struct.pack(
            "=QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, ctypes.addressof(buffer), len(data), 0, 0, 0, 0
        )
    )
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    assert libc.syscall(submit, context, ctypes.c_long(1), pointers) == 1
    events = ctypes.create_string_buffer(32)
    one = ctypes.c_long(1)
    assert libc.syscall(get_events, context, one, one, events, None) == 1
    libc.syscall(destroy, context)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of the calls are x86-64's")
def test_asynchronous_writes_to_an_open_file_are_found(sync: Sync) -> None:
    path = sync.here / "database"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    try:
        sync.run()
        submit_write(fd, b"written without a word")
        # Paths are the task's: here the root is another one, and the inode number tells.
        writing = open_for_writing([os.getpid()])
        assert (str(path), path.stat().st_ino) in writing
        sync.run(frozen=True, writing=writing)
    finally:
        os.close(fd)
    assert (sync.there / "database").read_bytes() == path.read_bytes()


def test_a_kernel_without_watches_to_give_is_no_hindrance(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        from migrate.errors import KernelError

        raise KernelError("inotify_add_watch", "x", 28)

    monkeypatch.setattr("migrate.syscalls.inotify_add_watch", refuse)
    (sync.here / "file").write_text("x")
    sync.run()
    (sync.here / "file").write_text("y")
    sync.run(frozen=True, writing=())
    assert listing(sync.there) == listing(sync.here)


def test_a_closed_watch_is_not_relied_on() -> None:
    watch = Watch()
    watch.close()
    watch.gather()
    assert not watch.is_reliable


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_in_whatever_order_arrives(sync: Sync, seed: int) -> None:
    chance = random.Random(seed)
    serial = 0
    for round_ in range(6):
        for _ in range(40):
            serial += 1
            play(chance, sync.here, serial)
        sync.run(frozen=round_ == 5, writing=() if round_ == 5 else None)
        if round_ in {2, 5}:
            assert listing(sync.there) == listing(sync.here)


def play(chance: random.Random, root: Path, serial: int) -> None:
    """Do one thing to a tree that a container might do."""
    everything = list(root.rglob("*"))
    folders = [root, *(path for path in everything if path.is_dir() and not path.is_symlink())]
    files = [path for path in everything if path.is_file() and not path.is_symlink()]
    new = chance.choice(folders) / f"n{serial}"
    some = chance.choice(everything) if everything else new
    deed = chance.randrange(11)
    if deed == 0 or not files:
        new.write_bytes(chance.randbytes(chance.choice([0, 10, 5000, 300_000])))
    elif deed == 1:
        new.mkdir()
    elif deed == 2:
        new.symlink_to(f"target{serial}")
    elif deed == 3:
        os.link(chance.choice(files), new)
    elif deed == 4:
        with open(chance.choice(files), "r+b") as file:
            file.seek(chance.randrange(200_000))
            file.write(b"patch")
    elif deed == 5:
        os.truncate(chance.choice(files), chance.choice([0, 100, 131_072, 400_000]))
    elif deed == 6 and not (some.is_dir() and not some.is_symlink()):
        some.unlink(missing_ok=True)
    elif deed == 7 and not new.is_relative_to(some) and some.exists():
        some.rename(new)
    elif deed == 8 and not some.is_symlink() and some.exists():
        some.chmod(0o700 | chance.randrange(0o100))
    elif deed == 9:
        chance.choice(files).replace(chance.choice(files))
    elif deed == 10 and some.exists():
        os.chown(some, serial, serial, follow_symlinks=False)
