"""The copy over there: the last that came for an address, zeros where nothing came."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.checkpoint.address_store import AddressStore
from migrate.checkpoint.page_batches import END, FORGET, IS_ZERO, PAGES, encode
from migrate.errors import ImageError
from tests.support import kernel

pytestmark = pytest.mark.root
PAGE = 4096
FOLDER = "/run"  # where a file may be as large as an address space
TOP = 0x7FFFFFFFF000


@pytest.fixture
def store() -> Iterator[AddressStore]:
    with AddressStore(FOLDER) as made:
        yield made


def pages(process: int, address: int, *contents: bytes) -> bytes:
    """Return a batch of one run."""
    return encode(PAGES, process, [(address, len(contents))]) + b"".join(contents)


def zeros(process: int, address: int, count: int) -> bytes:
    return encode(PAGES, process, [(address | IS_ZERO, count)])


def full(byte: int) -> bytes:
    return bytes([byte]) * PAGE


steps = st.lists(
    st.tuples(
        st.sampled_from(["pages", "zeros", "forget"]),
        st.integers(1, 2),
        st.sampled_from([0, PAGE, 5 * PAGE, 1 << 30, TOP - 8 * PAGE]),
        st.integers(0, 4),
        st.integers(1, 255),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(steps)
def test_it_holds_what_came_last(given_steps: list[tuple[str, int, int, int, int]]) -> None:
    model: dict[tuple[int, int], bytes] = {}
    sent = 0
    with AddressStore(FOLDER) as store:
        for what, process, address, count, byte in given_steps:
            places = [(process, address + step * PAGE) for step in range(count)]
            if what == "pages":
                store.feed(pages(process, address, *[full(byte)] * count))
                model |= dict.fromkeys(places, full(byte))
                sent += count * PAGE
            elif what == "zeros":
                store.feed(zeros(process, address, count))
                model |= dict.fromkeys(places, bytes(PAGE))
            else:
                store.feed(encode(FORGET, process))
                model = dict.fromkeys((key for key in model if key[0] == process), bytes(PAGE)) | {
                    key: value for key, value in model.items() if key[0] != process
                }
        store.feed(encode(END, 0))
        assert store.finish().page_bytes == sent
        for (process, place), content in model.items():
            assert os.pread(store.file_of(process), PAGE, place) == content


def test_the_memory_of_what_is_zeros_again_or_forgotten_is_given_back(store: AddressStore) -> None:
    store.feed(pages(1, PAGE, *[full(1)] * 200))
    store.feed(pages(2, PAGE, *[full(2)] * 200))
    assert os.fstat(store.file_of(1)).st_blocks * 512 >= 200 * PAGE
    store.feed(zeros(1, PAGE, 200))
    assert os.fstat(store.file_of(1)).st_blocks == 0
    descriptor = os.dup(store.file_of(2))
    store.feed(encode(FORGET, 2))
    assert store.file_of(2) != descriptor
    assert os.fstat(store.file_of(2)).st_blocks == 0
    os.close(descriptor)


def test_nothing_of_it_has_a_name(store: AddressStore) -> None:
    before = set(os.listdir(FOLDER))
    store.feed(pages(1, PAGE, full(1)))
    assert set(os.listdir(FOLDER)) == before


def test_a_stream_that_ends_early_is_refused(store: AddressStore) -> None:
    store.feed(pages(1, PAGE, full(1)))
    with pytest.raises(ImageError, match="ended early"):
        store.finish()


@pytest.mark.parametrize("more", [encode(END, 0), pages(1, PAGE, full(1)), b"\1"])
def test_a_stream_that_goes_on_after_its_end_is_refused(store: AddressStore, more: bytes) -> None:
    def goes_on() -> None:
        store.feed(more)
        store.finish()

    store.feed(encode(END, 0))
    with pytest.raises(ImageError, match="goes on after its end"):
        goes_on()


def test_no_room_is_said_as_what_it_is(tmp_path: Path) -> None:
    kernel.mount("tmpfs", str(tmp_path), "tmpfs", kernel.MS_NOSUID, "size=1m")
    try:
        with AddressStore(str(tmp_path)) as store:
            store.feed(pages(1, PAGE, *[full(1)] * 200))
            with pytest.raises(ImageError, match="memory cannot be kept: No space left"):
                store.feed(pages(2, PAGE, *[full(1)] * 200))
    finally:
        kernel.umount2(str(tmp_path), kernel.MNT_DETACH)


def test_a_closed_one_holds_nothing() -> None:
    store = AddressStore(FOLDER)
    descriptor = store.file_of(1)
    store.close()
    store.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_no_more_is_kept_than_a_container_of_its_size_can_have() -> None:
    many = b"".join(pages(1, index << 20, *([full(index + 1)] * 200)) for index in range(30))
    with (
        AddressStore(FOLDER, limit_bytes=8 << 20) as store,
        pytest.raises(ImageError, match="more than the 8388608 that are expected"),
    ):
        store.feed(many)
    # What comes again to the same place takes no more room.
    with AddressStore(FOLDER, limit_bytes=8 << 20) as store:
        for _ in range(30):
            store.feed(pages(1, 0, *([full(7)] * 200)))
