"""A container that plays tricks while it is read, and a peer that sends nonsense."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import FileSyncError, LinkError, MigrateError, ProtocolError
from migrate.live.filesystem import batch as wire
from migrate.live.filesystem import passes
from migrate.live.filesystem.batch import NO_LINK, Batch, Decoder, encode
from migrate.live.filesystem.passes import BlockKind, FileKind
from migrate.live.filesystem.receiver import TreeReceiver
from migrate.live.filesystem.roster import Roster
from migrate.transport.link import Link

from .conftest import Sync, listing

DIRECTORY = stat.S_IFDIR | 0o755
REGULAR = stat.S_IFREG | 0o644


# --- a container that changes what is being read ---


@contextlib.contextmanager
def swapping(swap: Callable[[], None]) -> Iterator[None]:
    """Call `swap` all the time meanwhile."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                swap()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_directory_exchanged_for_a_link_outside_is_never_followed(
    sync: Sync, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("the host's own")
    inside = sync.here / "directory"
    inside.mkdir()
    (inside / "file").write_text("the container's")
    aside = sync.here / "aside"

    def swap() -> None:
        os.rename(inside, aside)
        os.symlink(secret, inside)
        os.unlink(inside)
        os.rename(aside, inside)

    with swapping(swap):
        for _ in range(20):
            sync.run()
    sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)
    assert "the host's own" not in subprocess.check_output(
        ["grep", "-r", "", str(sync.there)], text=True
    )


def test_a_file_exchanged_for_a_fifo_or_a_device_is_never_opened(sync: Sync) -> None:
    path = sync.here / "file"
    other = sync.here / "other"
    path.write_text("content")

    def swap() -> None:
        for make in (
            lambda: os.mkfifo(other),
            lambda: os.mknod(other, stat.S_IFCHR | 0o600, os.makedev(5, 1)),
            lambda: other.write_text("again"),
        ):
            make()
            os.rename(other, path)

    with swapping(swap):
        for _ in range(20):
            sync.run()
    sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)


def test_files_that_grow_and_shrink_while_they_are_read_end_up_right(sync: Sync) -> None:
    path = sync.here / "log"
    path.write_bytes(os.urandom(500_000))

    def swap() -> None:
        with open(path, "r+b") as file:
            file.truncate(os.urandom(1)[0] * 4096)
            file.seek(0, 2)
            file.write(os.urandom(50_000))

    with swapping(swap):
        for _ in range(20):
            sync.run()
    sync.run(frozen=True)
    assert listing(sync.there) == listing(sync.here)


def test_what_changes_while_the_container_is_frozen_is_an_error(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sync.here / "file"
    path.write_bytes(bytes(1_000_000))
    original = sync.source._send_blocks

    def write_meanwhile(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        path.write_text("from outside")

    monkeypatch.setattr(sync.source, "_send_blocks", write_meanwhile)
    with pytest.raises(FileSyncError, match="changed while the container was frozen") as failure:
        sync.run(frozen=True)
    assert "from outside" in failure.value.hint


# --- mount points ---


@pytest.fixture
def mounted() -> Iterator[Callable[[Path], None]]:
    places: list[Path] = []

    def mount(place: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "other", str(place)], check=True)
        places.append(place)

    yield mount
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_what_is_mounted_below_the_source_is_not_part_of_it(
    sync: Sync, mounted: Callable[[Path], None]
) -> None:
    place = sync.here / "proc"
    place.mkdir()
    mounted(place)
    (place / "not-ours").write_text("x")
    sync.run()
    sync.run(frozen=True)
    assert list((sync.there / "proc").iterdir()) == []


def test_what_is_mounted_below_the_destination_is_not_touched(
    sync: Sync, mounted: Callable[[Path], None]
) -> None:
    place = sync.there / "data"
    place.mkdir()
    mounted(place)
    (place / "kept").write_text("x")
    with pytest.raises(FileSyncError, match="cross-device") as failure:
        sync.run()
    assert "Unmount" in failure.value.hint
    assert (place / "kept").read_text() == "x"


def test_a_very_deep_tree_with_long_names_arrives(sync: Sync) -> None:
    name = "n" * 255
    fd = os.open(sync.here, os.O_RDONLY)
    for _ in range(40):  # 10 kB of path: more than PATH_MAX
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o604, dir_fd=fd))
    os.close(fd)
    sync.run()
    sync.run(frozen=True)
    fd = os.open(sync.there, os.O_RDONLY)
    for _ in range(40):
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    assert stat.S_IMODE(os.stat("bottom", dir_fd=fd).st_mode) == 0o604
    os.close(fd)
    for root in (sync.here, sync.there):  # pytest's own removal cannot
        subprocess.run(["rm", "-rf", str(root / name)], check=True)


# --- a peer that sends what no source sends ---


def make_batch(*rows: tuple[int, int, int, str], gone: tuple[int, ...] = ()) -> Batch:
    """A batch of (id, parent, mode, name)."""
    made = Batch(gone=array("I", gone))
    for entry, parent, mode, name in rows:
        made.ids.append(entry)
        made.parents.append(parent)
        made.modes.append(mode)
        made.names.append(name)
        made.links.append(NO_LINK)
        for column in (made.uids, made.gids, made.sizes, made.mtimes, made.rdevs):
            column.append(0)
    return made


def travelled(sent: Batch) -> Batch:
    """A batch as it arrives."""
    raw = b"".join(encode(sent))
    decoder = Decoder()
    at = Decoder.HEAD_BYTES
    sections = []
    for size in decoder.head(raw[:at]):
        sections.append(raw[at : at + size])
        at += size
    return decoder.batch(sections)


ROOT = (0, 0, DIRECTORY, "")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc/passwd", "x" * 256])
def test_a_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        travelled(make_batch(ROOT, (1, 0, REGULAR, name)))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(1, 0, REGULAR, "a")],
        [(0, 0, REGULAR, "")],
        [ROOT, (1, 2, REGULAR, "a"), (2, 0, DIRECTORY, "b")],
        [ROOT, (1, 1, DIRECTORY, "a")],
        [ROOT, (1, 0, REGULAR, "a"), (2, 1, REGULAR, "b")],
        [ROOT, (2, 0, REGULAR, "a"), (1, 0, REGULAR, "b")],
        [ROOT, (1 << 30, 0, REGULAR, "a")],
    ],
)
def test_entries_that_cannot_be_where_they_are_said_to_be_are_refused(
    rows: list[tuple[int, int, int, str]],
) -> None:
    with pytest.raises(ProtocolError):
        Roster().admit(travelled(make_batch(*rows)))


def test_an_entry_cannot_become_another_or_vanish_twice() -> None:
    roster = Roster()
    roster.admit(make_batch(ROOT, (1, 0, DIRECTORY, "a"), (2, 1, REGULAR, "b")))
    for later in (
        make_batch((1, 0, REGULAR, "a")),
        make_batch((2, 0, REGULAR, "b")),
        make_batch((2, 1, REGULAR, "c")),
        make_batch(gone=(0,)),
        make_batch(gone=(3,)),
        make_batch(gone=(2, 2)),
        make_batch((3, 1, REGULAR, "c"), gone=(1,)),
    ):
        with pytest.raises(ProtocolError):
            roster.admit(later)


@pytest.mark.parametrize(("link", "mode"), [(0, DIRECTORY), (1, REGULAR), (9, REGULAR)])
def test_a_further_name_of_a_directory_or_of_nothing_is_refused(link: int, mode: int) -> None:
    sent = make_batch(ROOT, (1, 0, DIRECTORY, "a"), (2, 0, mode, "b"))
    sent.links[2] = link
    with pytest.raises(ProtocolError):
        Roster().admit(sent)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_batch_is_refused_or_is_still_a_sound_one(data: st.DataObject) -> None:
    sent = make_batch(ROOT, (1, 0, DIRECTORY, "etc"), (2, 1, stat.S_IFLNK | 0o777, "link"))
    sent.targets[2] = "target"
    sent.xattrs[1] = {"user.x": b"value"}
    raw = bytearray(b"".join(encode(sent)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    with contextlib.suppress(ProtocolError, struct.error):
        sizes = decoder.head(bytes(raw[: Decoder.HEAD_BYTES]))
        assert sum(sizes) < wire.MAX_ENTRIES * 64 + 3 * wire.MAX_SECTION_BYTES
        if sum(sizes) != len(raw) - Decoder.HEAD_BYTES:
            return
        place = Decoder.HEAD_BYTES
        sections = []
        for size in sizes:
            sections.append(bytes(raw[place : place + size]))
            place += size
        arrived = decoder.batch(sections)
        Roster().admit(arrived)
        assert all("/" not in name and name != ".." for name in arrived.names)


@given(st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=20, unique=True))
@settings(max_examples=60, deadline=None)
def test_any_name_a_file_can_have_travels(names: list[bytes]) -> None:
    kept = [
        os.fsdecode(name)
        for name in names
        if b"/" not in name and b"\0" not in name and name not in {b".", b".."}
    ]
    rows = [(at, 0, REGULAR, name) for at, name in enumerate(kept, 1)]
    assert travelled(make_batch(ROOT, *rows)).names == ["", *kept]


def told(
    links: tuple[Link, Link], there: Path, *pieces: bytes, announced: int = 1_000_000
) -> MigrateError:
    """What a receiver makes of a stream that is put together by hand."""
    failed: list[MigrateError] = []

    def receive() -> None:
        with TreeReceiver(links[1], "rootfs", str(there)) as receiver:
            try:
                receiver.run()
            except MigrateError as error:
                failed.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    head = passes.BEGIN.pack(passes.FORMAT, 0, 9, announced)
    stream = links[0].open_stream("rootfs/1")
    with contextlib.suppress(LinkError):
        stream.write(head + b"".join(pieces))
        stream.close()
    thread.join(10)
    assert not thread.is_alive()
    return failed[0]


def file(kind: FileKind, entry: int) -> bytes:
    return passes.FILE.pack(kind, entry)


def block(kind: BlockKind, offset: int, data: bytes) -> bytes:
    return passes.BLOCK.pack(kind, offset, len(data)) + data


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([file(FileKind.WHOLE, 1), block(BlockKind.FULL, 5, b"x")], "out of order"),
        ([file(FileKind.WHOLE, 1), block(BlockKind.FULL, 1 << 40, b"x")], "larger than announced"),
        (
            [file(FileKind.WHOLE, 1), passes.BLOCK.pack(BlockKind.FULL, 0, 1 << 31)],
            "larger than announced",
        ),
        (
            [
                file(FileKind.WHOLE, 1),
                block(BlockKind.FULL, 0, b"x"),
                passes.BLOCK.pack(BlockKind.END, 1, 16) + bytes(16),
            ],
            "arrived damaged",
        ),
        ([file(FileKind.WHOLE, 0)], "not a file"),
        ([file(FileKind.WHOLE, 2)], "not a file"),
        ([file(FileKind.WHOLE, 77)], "not a file"),
        ([file(FileKind.SAME, 1)], "was not offered"),
        ([passes.FILE.pack(9, 1)], "not how a file comes"),
        ([file(FileKind.GONE, 1)] * 20, "more files than announced"),
        ([file(FileKind.WHOLE, 1), block(BlockKind.FULL, 0, b"x")[:-1]], "ended in the middle"),
        ([file(FileKind.FINISHED, 0), b"more"], "more follows"),
    ],
)
def test_content_that_cannot_be_is_refused(
    links: tuple[Link, Link], tmp_path: Path, pieces: list[bytes], said: str
) -> None:
    sent = make_batch(ROOT, (1, 0, REGULAR, "file"), (2, 0, stat.S_IFLNK | 0o777, "link"))
    sent.targets[2] = "/etc/passwd"
    there = tmp_path / "there"
    there.mkdir()
    assert said in told(links, there, *encode(sent), *pieces).message


def test_more_than_announced_is_refused_before_it_is_written(
    links: tuple[Link, Link], tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    sent = make_batch(ROOT, (1, 0, REGULAR, "file"))
    pieces = [file(FileKind.WHOLE, 1), block(BlockKind.FULL, 0, bytes(2000))]
    said = told(links, there, *encode(sent), *pieces, announced=1000)
    assert "larger than announced" in said.message
    assert (there / "file").stat().st_size == 0


def test_a_name_given_twice_is_refused(links: tuple[Link, Link], tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    sent = make_batch(ROOT, (1, 0, DIRECTORY, "a"), (2, 0, DIRECTORY, "a"))
    assert "file exists" in told(links, there, *encode(sent)).message


def test_a_link_that_breaks_is_an_error_on_both_sides(sync: Sync, links: tuple[Link, Link]) -> None:
    (sync.here / "large").write_bytes(os.urandom(60_000_000))
    failed: list[Exception] = []

    def receive() -> None:
        try:
            sync.receiver.run()
        except MigrateError as error:
            failed.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    timer = threading.Timer(0.01, links[0].close)
    timer.start()
    with pytest.raises(MigrateError):
        sync.source.run()
    timer.join()
    thread.join(10)
    assert not thread.is_alive()
    assert len(failed) == 1
