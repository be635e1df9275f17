"""Both halves together: whatever a tree may hold arrives as it was."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from migrate.errors import FileSyncError
from migrate.live.filesystem.mapped import Held
from migrate.live.filesystem.source import TreeSource

from .conftest import Sync, listing


def fill(root: Path) -> None:
    """Make one of everything."""
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0\n")
    (root / "empty").write_bytes(b"")
    (root / "empty-directory").mkdir(0o1777)
    (root / "bin").mkdir()
    (root / "bin/busybox").write_bytes(os.urandom(300_000))
    for name in ("ls", "cat", "sh"):
        os.link(root / "bin/busybox", root / "bin" / name)
    (root / "bin/su").write_bytes(b"#!")
    os.chown(root / "bin/su", 1000, 2000)
    os.chmod(root / "bin/su", 0o6755)
    os.setxattr(
        root / "bin/su",
        "security.capability",
        bytes.fromhex("0100000200040000000000000000000000000000"),
    )
    os.setxattr(root / "etc", "user.note", b"\x00\xff")
    os.symlink("/etc/passwd", root / "absolute")
    os.symlink("../../../../etc/shadow", root / "etc/outside")
    os.chown(root / "absolute", 5, 6, follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root)
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(50_000_000)
        sparse.seek(20_000_000)
        sparse.write(b"in the middle")
    odd = os.fsencode(root) + b"/not\xff\xfeutf8\nname"
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.utime(root / "etc/passwd", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "etc", ns=(0, 987_654_321_000_000_001))


def test_everything_a_tree_may_hold_arrives_as_it_was(sync: Sync) -> None:
    fill(sync.here)
    sync.run()
    report = sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)
    assert report.frozen
    assert (report.files, report.gone) == (0, 0)
    assert (sync.there / "sparse").stat().st_blocks * 512 < 1_000_000


@pytest.mark.parametrize("writing", [None, ()])
def test_the_frozen_pass_carries_what_changed_meanwhile(
    sync: Sync, writing: tuple[Held, ...] | None
) -> None:
    fill(sync.here)
    sync.run()
    (sync.here / "etc/passwd").write_text("nobody:x:1:1\n")
    (sync.here / "bin/cat").unlink()
    os.link(sync.here / "bin/busybox", sync.here / "etc/busybox")
    (sync.here / "empty-directory/new").mkdir()
    (sync.here / "empty-directory/new/file").write_bytes(b"fresh" * 100_000)
    (sync.here / "fifo").unlink()
    (sync.here / "fifo").write_text("a file now")
    os.chmod(sync.here / "bin/su", 0o700)
    os.removexattr(sync.here / "etc", "user.note")
    (sync.here / "absolute").unlink()
    os.symlink("elsewhere", sync.here / "absolute")
    sync.run(frozen=True, writing=writing)
    assert listing(sync.there) == listing(sync.here)


def test_only_the_blocks_of_a_large_file_that_changed_are_sent_again(sync: Sync) -> None:
    data = bytearray(os.urandom(4_000_000))
    (sync.here / "database").write_bytes(data)
    sync.run()
    with open(sync.here / "database", "r+b") as file:
        file.seek(2_000_000)
        file.write(b"changed")
        file.truncate(3_900_001)
    report = sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)
    assert report.content_bytes <= 3 * 128 * 1024


def test_a_directory_that_became_a_link_does_not_lead_outside(sync: Sync, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("untouched")
    (sync.here / "directory").mkdir()
    (sync.here / "directory/file").write_text("inside")
    sync.run()
    (sync.here / "directory/file").unlink()
    (sync.here / "directory").rmdir()
    os.symlink(str(outside), sync.here / "directory")
    sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_an_old_tree_on_the_destination_is_used_and_then_the_same(sync: Sync) -> None:
    fill(sync.here)
    fill(sync.there)
    same = sync.here / "bin/large"
    same.write_bytes(b"same" * 1_000_000)
    (sync.there / "bin/large").write_bytes(b"same" * 1_000_000)
    (sync.there / "etc/extra").mkdir()
    (sync.there / "etc/extra/deep").write_text("to be removed")
    (sync.there / "fifo").unlink()
    os.symlink("/", sync.there / "fifo")
    (sync.there / "etc/passwd").write_text("root:y:0:0\n")
    report = sync.run()
    assert listing(sync.there) == listing(sync.here)
    assert report.content_bytes < 1_000_000
    sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)


def test_a_full_destination_is_reported_and_not_called_done(
    sync: Sync, small_file_system: Path
) -> None:
    (sync.here / "large").write_bytes(os.urandom(3_000_000))
    sync.there = small_file_system
    sync.receiver.close()
    sync.receiver.__init__(sync.receiver._link, "rootfs", str(small_file_system))  # type: ignore[misc]
    with pytest.raises(FileSyncError, match="no space left on device") as failure:
        sync.run()
    assert "Free space" in failure.value.hint


def test_a_hard_link_whose_first_name_goes_stays_one_file(sync: Sync) -> None:
    (sync.here / "a").write_bytes(b"content" * 1000)
    os.link(sync.here / "a", sync.here / "b")
    os.link(sync.here / "a", sync.here / "c")
    sync.run()
    (sync.here / "a").unlink()
    os.link(sync.here / "b", sync.here / "z")
    with open(sync.here / "c", "ab") as file:
        file.write(b"more")
    sync.run()
    (sync.here / "b").unlink()
    (sync.here / "c").unlink()
    report = sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)
    assert report.files <= 1


def test_a_mapped_file_is_compared_by_content(sync: Sync) -> None:
    path = sync.here / "mapped"
    path.write_bytes(bytes(1_000_000))
    os.utime(path, ns=(0, 10**18))
    sync.run()
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(500_000)
        file.write(b"stored")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    # As if the store had left the change time alone, too.
    entry = sync.source._inventory.find("mapped")
    assert entry is not None
    sync.source._inventory._ctimes[entry] = path.stat().st_ctime_ns
    sync.source._inventory._floor_ns = 2**62
    assert sync.run(mapped=[("/mapped", path.stat().st_ino), ("/absent", 0)]).files == 1
    assert path.read_bytes() == (sync.there / "mapped").read_bytes()


def test_a_file_that_could_not_be_read_in_time_comes_later_and_its_directory_keeps_its_time(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sync.here / "directory").mkdir()
    (sync.here / "directory/file").write_text("content")
    os.link(sync.here / "directory/file", sync.here / "directory/other")
    os.utime(sync.here / "directory", ns=(1, 1))

    def vanished(*_: object) -> int:
        raise FileNotFoundError(2, "gone")

    with monkeypatch.context() as patched:
        patched.setattr("migrate.live.filesystem.source.open_regular", vanished)
        sync.run()
    assert not (sync.there / "directory/file").exists()
    sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)


def test_an_overlay_arrives_as_it_is_seen_whiteouts_and_copies_included(
    sync: Sync, overlay: Path
) -> None:
    sync.source.close()
    (overlay / "lower-only").chmod(0o600)
    with TreeSource(sync.source._link, "rootfs", str(overlay)) as source:
        sync.source = source
        sync.run()
        (overlay / "changed").write_text("copied up")
        (overlay / "removed").unlink()
        (overlay / "directory/new").write_text("upper")
        (overlay / "opaque/old").unlink()
        (overlay / "opaque").rmdir()
        (overlay / "opaque").mkdir()
        sync.run(frozen=True)
        assert listing(sync.there) == listing(overlay)
