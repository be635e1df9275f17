"""What a keeper leaves behind is read by the next as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from migrate.checkpoint import keeper_journal
from migrate.checkpoint.keeper_journal import FILLED, Entry, Journal, make_journal
from migrate.errors import CriuError
from migrate.syscalls.userfaultfd import (
    MESSAGE,
    UFFD_EVENT_FORK,
    UFFD_EVENT_PAGEFAULT,
    UFFD_EVENT_REMAP,
    UFFD_EVENT_UNMAP,
)


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = make_journal()
    yield made
    os.close(made)


@pytest.fixture
def messages() -> Iterator[tuple[int, int]]:
    """A pipe as long as it is empty says nothing, as a userfaultfd."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_everything_but_faults_is_there_for_the_next(
    descriptor: int, messages: tuple[int, int]
) -> None:
    reading, writing = messages
    first = Journal(descriptor)
    assert list(first.entries()) == []
    said = [
        (UFFD_EVENT_UNMAP, 0x1000, 0x3000, 0),
        (UFFD_EVENT_PAGEFAULT, 0, 0x7000, 0),
        (UFFD_EVENT_REMAP, 0x4000, 0x9000, 0x2000),
        (UFFD_EVENT_PAGEFAULT, 0, 0x8000, 0),
    ]
    for process, message in enumerate(said):
        os.write(writing, MESSAGE.pack(*message))
        assert first.read(process, reading) == Entry(process, *message)
    first.filled(7, 0x8000, 0xA000)
    os.write(writing, MESSAGE.pack(UFFD_EVENT_FORK, 12, 0, 0))
    assert first.read(3, reading) == Entry(3, UFFD_EVENT_FORK, 12, 0, 0)
    os.write(writing, MESSAGE.pack(UFFD_EVENT_PAGEFAULT, 0, 0xB000, 0))
    assert first.read(0, reading) == Entry(0, UFFD_EVENT_PAGEFAULT, 0, 0xB000, 0)
    assert first.read(0, reading) is None

    left = [
        Entry(0, *said[0]),
        Entry(2, *said[2]),
        Entry(7, FILLED, 0x8000, 0xA000, 0),
        Entry(3, UFFD_EVENT_FORK, 12, 0, 0),
    ]
    second = Journal(descriptor)
    assert list(second.entries()) == left
    second.filled(1, 0, 0x1000)
    assert list(Journal(descriptor).entries()) == [*left, Entry(1, FILLED, 0, 0x1000, 0)]


def test_a_full_journal_is_said(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_journal, "JOURNAL_BYTES", 100)
    journal = Journal(descriptor)
    journal.filled(0, 0, 0x1000)
    with pytest.raises(CriuError, match="full"):
        journal.filled(0, 0, 0x1000)
