"""The memory stream: CRIU's page-server protocol at both of its ends."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.checkpoint.page_store import PageStore
from migrate.checkpoint.pages import (
    FLAGS_SHIFT,
    PE_PARENT,
    PE_PRESENT,
    PS_IOV_ADD_F,
    PS_IOV_FORCE_CLOSE,
    PS_IOV_OPEN2,
    PS_IOV_PARENT,
    RECORD,
    PageSource,
    StreamSummary,
)
from migrate.checkpoint.reserve import Reserve
from migrate.errors import CriuError, ImageError

PAGE = 4096
Run = tuple[int, int, int]  # flags, address in pages, pages


def opened(image: int, kind: int = 1) -> bytes:
    """Return the record that begins an image."""
    return RECORD.pack(PS_IOV_OPEN2, 0, 0, image << 8 | kind)


def added(run: Run, image: int = 1) -> bytes:
    """Return the record of a run of pages, without the pages."""
    flags, address, pages = run
    return RECORD.pack(PS_IOV_ADD_F | flags << FLAGS_SHIFT, pages, address * PAGE, image << 8 | 1)


CLOSE = RECORD.pack(PS_IOV_FORCE_CLOSE, 0, 0, 0)


def stream_of(runs: list[Run], seed: int = 0) -> bytes:
    """Return a whole stream of one image."""
    chance = random.Random(seed)
    parts = [opened(1)]
    for run in runs:
        parts.append(added(run))
        if run[0] & PE_PRESENT:
            parts.append(chance.randbytes(run[2] * PAGE))
    return b"".join((*parts, CLOSE))


class Dumping:
    """Stands for a dumping CRIU: sends, and waits for the answers it waits for."""

    def __init__(self, source: PageSource) -> None:
        # A duplicate, as a CRIU that inherits the descriptor has one.
        self.socket = socket.socket(fileno=os.dup(source.descriptor))
        source.start()

    def send(self, data: bytes, answer_bytes: int = 0) -> bytes:
        self.socket.sendall(data)
        return self.socket.recv(answer_bytes, socket.MSG_WAITALL) if answer_bytes else b""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """An image directory's descriptor."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_the_source_answers_by_itself_and_hands_everything_on() -> None:
    chunks: list[bytes] = []
    source = PageSource(lambda chunk: chunks.append(bytes(chunk)), chunk_bytes=10_000)
    dumping = Dumping(source)
    pages = random.Random(1).randbytes(5 * PAGE)
    sent = [RECORD.pack(PS_IOV_PARENT, 0, 0, 0x101), opened(1), added((PE_PRESENT, 8, 5)) + pages]
    assert dumping.send(sent[0], 4) == bytes(4)
    assert dumping.send(sent[1], 1) == b"\0"
    dumping.send(sent[2])
    assert dumping.send(CLOSE, 4) == bytes(4)
    summary = source.finish()
    assert b"".join(chunks) == b"".join((*sent, CLOSE))
    assert all(len(chunk) > 9_000 for chunk in chunks[:-1])
    assert (summary.page_bytes, summary.complete) == (5 * PAGE, True)
    dumping.socket.close()


def test_pages_that_look_like_records_are_pages() -> None:
    chunks: list[bytes] = []
    source = PageSource(lambda chunk: chunks.append(bytes(chunk)))
    dumping = Dumping(source)
    assert dumping.send(opened(1), 1) == b"\0"
    evil = (opened(2) + CLOSE) * (PAGE // 64)
    dumping.send(added((PE_PRESENT, 1, 1)) + evil)
    assert dumping.send(CLOSE, 4) == bytes(4)
    assert source.finish().page_bytes == PAGE
    dumping.socket.close()


def test_a_sink_that_fails_fails_the_dump() -> None:
    def full(_: memoryview) -> None:
        raise OSError(28, "full")

    source = PageSource(full, chunk_bytes=PAGE)
    dumping = Dumping(source)
    dumping.send(opened(1), 1)
    endless = (added((PE_PRESENT, 1, 4)) + bytes(4 * PAGE)) * 1000
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        dumping.send(endless)
    with pytest.raises(OSError, match="full"):
        source.finish()
    dumping.socket.close()


def test_a_criu_that_dies_is_an_incomplete_stream() -> None:
    source = PageSource(lambda _: None)
    dumping = Dumping(source)
    dumping.send(opened(1), 1)
    dumping.socket.close()
    with pytest.raises(CriuError, match="before everything was sent"):
        source.finish()


def test_an_aborted_stream_ends_at_once() -> None:
    source = PageSource(lambda _: None)
    dumping = Dumping(source)
    dumping.send(opened(1), 1)
    source.abort()
    assert dumping.socket.recv(1) == b""
    dumping.socket.close()
    with pytest.raises(CriuError):
        source.finish()


def test_one_that_was_never_started_leaves_nothing() -> None:
    with pytest.raises(CriuError):
        PageSource(lambda _: None).finish()


runs = st.lists(
    st.tuples(
        st.sampled_from([PE_PRESENT, PE_PARENT, PE_PRESENT | 2]),
        st.integers(0, 1 << 40),
        st.integers(1, 3),
    ),
    max_size=6,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(runs, st.integers(1, 20_000))
def test_any_cut_of_a_stream_gives_the_same_images(
    tmp_path: Path, wanted: list[Run], size: int
) -> None:
    stream = stream_of(wanted)
    results = []
    for number, step in enumerate((len(stream), size)):
        there = tmp_path / str(number)
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir()
        descriptor = os.open(there, os.O_RDONLY)
        store = PageStore(descriptor)
        for at in range(0, len(stream), step):
            store.feed(stream[at : at + step])
        summary = store.finish()
        os.close(descriptor)
        files = {path.name: path.read_bytes() for path in there.iterdir()}
        results.append((summary, files))
    assert results[0] == results[1]
    pages = b"".join(
        stream_of([run])[2 * RECORD.size : -RECORD.size] for run in wanted if run[0] & PE_PRESENT
    )
    assert len(results[0][1]["pages-65537.img"]) == len(pages)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (stream_of([])[:-1], "ended early"),
        (opened(1), "ended early"),
        (opened(1) + added((PE_PRESENT, 1, 2)) + bytes(PAGE), "ended early"),
        (added((PE_PRESENT, 1, 1)), "outside an image"),
        (RECORD.pack(77, 0, 0, 0), "unknown command"),
        (opened(1, kind=9), "unknown kind"),
        (CLOSE + opened(1), "after its end"),
    ],
)
def test_what_is_no_memory_stream_is_refused(folder: int, stream: bytes, said: str) -> None:
    store = PageStore(folder)

    def take() -> None:
        store.feed(stream)
        store.finish()

    with pytest.raises(ImageError, match=said):
        take()
    store.close()


def test_the_same_image_twice_is_refused(folder: int) -> None:
    store = PageStore(folder)
    with pytest.raises(ImageError, match="exists"):
        store.feed(opened(1) + opened(1) + CLOSE)
    store.close()


def test_more_than_was_declared_is_not_written(folder: int, tmp_path: Path) -> None:
    store = PageStore(folder, limit_bytes=2 * PAGE)
    store.feed(opened(1) + added((PE_PRESENT, 1, 1)))
    with pytest.raises(ImageError, match="longer than the 8192 bytes declared"):
        store.feed(bytes(2 * PAGE))
    store.close()
    assert (tmp_path / "pages-65537.img").stat().st_size == 0


def test_a_full_image_directory_is_named() -> None:
    descriptor = os.open("/proc/self", os.O_RDONLY)
    try:
        with pytest.raises(ImageError, match="cannot be written"):
            PageStore(descriptor).feed(opened(1))
    finally:
        os.close(descriptor)


@pytest.mark.criu
def test_the_images_are_those_of_crius_own_page_server(criu: str, tmp_path: Path) -> None:
    stream = b"".join(
        (
            stream_of([(PE_PRESENT, 16, 3), (PE_PRESENT, 1 << 30, 700), (PE_PRESENT, 1 << 34, 1)])[
                : -RECORD.size
            ],
            opened(5, kind=2),
            RECORD.pack(PS_IOV_ADD_F | PE_PRESENT << FLAGS_SHIFT, 2, 0, 5 << 8 | 2),
            bytes(2 * PAGE),
            CLOSE,
        )
    )
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    descriptor = os.open(tmp_path / "ours", os.O_RDONLY)
    store = PageStore(descriptor)
    store.feed(stream)
    store.finish()
    os.close(descriptor)
    here, there = socket.socketpair()
    server = subprocess.Popen(
        [
            *(criu, "page-server", "-D", str(tmp_path / "theirs")),
            *("--ps-socket", str(there.fileno()), "-v0", "-o", "log"),
        ],
        pass_fds=(there.fileno(),),
        stdin=subprocess.DEVNULL,
    )
    there.close()
    answers = threading.Thread(target=lambda: [None for _ in iter(lambda: here.recv(64), b"")])
    answers.start()
    here.sendall(stream)
    assert server.wait(20) == 0
    answers.join()
    here.close()
    ours, theirs = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.img")}
        for name in ("ours", "theirs")
    )
    assert ours == theirs


def test_both_ends_sum_up_the_same(folder: int) -> None:
    store = PageStore(folder)
    source = PageSource(store.feed, chunk_bytes=5000)
    dumping = Dumping(source)
    dumping.send(opened(1), 1)
    dumping.send(added((PE_PRESENT, 1, 40)) + random.Random(3).randbytes(40 * PAGE))
    dumping.send(CLOSE, 4)
    summary = source.finish()
    assert isinstance(summary, StreamSummary)
    assert store.finish() == summary
    dumping.socket.close()


def test_progress_can_be_read_meanwhile() -> None:
    source = PageSource(lambda _: None, chunk_bytes=PAGE)
    dumping = Dumping(source)
    dumping.send(opened(1), 1)
    dumping.send(added((PE_PRESENT, 1, 10)) + bytes(10 * PAGE))
    deadline = time.monotonic() + 5
    while source.stream_bytes < 9 * PAGE:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    dumping.send(CLOSE, 4)
    source.finish()
    dumping.socket.close()


class TestReserve:
    """Memory that is taken before the stream begins."""

    SIZE = 20 << 20

    def stream(self, process: int = 1, pages: int = 300) -> bytes:
        """Return a stream with one image of a process."""
        record = RECORD.pack(
            PS_IOV_ADD_F | PE_PRESENT << FLAGS_SHIFT, pages, PAGE, process << 8 | 1
        )
        return opened(process) + record + random.Random(process).randbytes(pages * PAGE) + CLOSE

    def images(self, folder: int, tmp_path: Path, reserve: Reserve | None) -> dict[str, bytes]:
        """Return the files a stream becomes."""
        store = PageStore(folder, reserve=reserve)
        store.feed(self.stream())
        store.finish()
        found = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        for name in found:
            (tmp_path / name).unlink()
        return found

    def test_images_are_the_same_with_and_without(self, folder: int, tmp_path: Path) -> None:
        reserve = Reserve(folder, {1: self.SIZE, 2: self.SIZE, 3: 10})
        reserve.start()
        assert self.images(folder, tmp_path, reserve) == self.images(folder, tmp_path, None)

    def test_a_filled_reserve_is_as_large_as_it_should_be(
        self, folder: int, tmp_path: Path
    ) -> None:
        reserve = Reserve(folder, {7: self.SIZE})
        reserve.start()
        assert reserve.wait(10)
        assert (tmp_path / ".reserved-7").stat().st_blocks * 512 >= self.SIZE
        reserve.close()
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_taken_that_the_host_needs(self, folder: int, tmp_path: Path) -> None:
        reserve = Reserve(folder, {1: self.SIZE}, available_bytes=self.SIZE)
        reserve.start()
        assert reserve.wait(10)
        assert list(tmp_path.iterdir()) == []
        reserve.close()

    def test_one_that_was_never_started_gives_nothing(self, folder: int, tmp_path: Path) -> None:
        reserve = Reserve(folder, {1: self.SIZE})
        assert reserve.take(1, "pages-1.img") is None
        reserve.close()
        assert list(tmp_path.iterdir()) == []

    def test_an_image_that_is_there_is_not_replaced(self, folder: int, tmp_path: Path) -> None:
        (tmp_path / "pages-65537.img").write_bytes(b"theirs")
        reserve = Reserve(folder, {1: self.SIZE})
        reserve.start()
        assert reserve.wait(10)
        store = PageStore(folder, reserve=reserve)
        with pytest.raises(ImageError, match="exists"):
            store.feed(self.stream())
        store.close()
        assert (tmp_path / "pages-65537.img").read_bytes() == b"theirs"
        assert not list(tmp_path.glob(".reserved*"))
