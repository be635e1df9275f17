"""`checkpoint.direct_io`: who is not to be watched by the kernel, and that it is not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint import direct_io, procfs
from migrate.checkpoint.direct_io import reads_directly
from migrate.checkpoint.memory_copy import MemoryCopy

PROGRAM = """
import os, sys
held = bytearray(b"x" * (1 << 20))
for line in sys.stdin:
    word, _, path = line.rstrip().partition(" ")
    if word == "direct":
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    elif word == "plain":
        descriptor = os.open(path, os.O_RDONLY)
    else:
        os.close(descriptor)
    print(flush=True)
"""


class Reader:
    """A process that opens files as it is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def do(self, word: str) -> None:
        """Have it open the file in this way, or close it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word} {self._path}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def reader() -> Iterator[Reader]:
    # Not on a tmpfs of the tests, some of which refuse O_DIRECT.
    path = Path(__file__)
    made = Reader(path)
    made.do("plain")
    yield made
    made.end()


def test_a_file_that_is_read_directly_is_seen_as_long_as_it_is_open(reader: Reader) -> None:
    assert not reads_directly(reader.pid)
    reader.do("close")
    reader.do("direct")
    assert reads_directly(reader.pid)
    reader.do("close")
    assert not reads_directly(reader.pid)


def test_one_that_reads_directly_is_compared_by_digests_from_then_on(reader: Reader) -> None:
    copy = MemoryCopy(lambda _: None)
    try:
        copy.pass_over([(reader.pid, 1)])
        assert copy.by_digests == 0
        reader.do("direct")
        again = copy.pass_over([(reader.pid, 1)])
        assert copy.by_digests == 1
        assert again.sent_bytes >= 1 << 20  # all of it once more
        assert copy.pass_over([(reader.pid, 1)]).sent_bytes < 1 << 20
    finally:
        copy.close()


def test_one_that_closes_the_file_while_its_pages_are_sent_is_seen_too(reader: Reader) -> None:
    sent: list[memoryview] = []

    def sink(batch: memoryview) -> None:
        if not sent:
            reader.do("close")
        sent.append(batch)

    copy = MemoryCopy(sink)
    try:
        sent.append(memoryview(b""))
        copy.pass_over([(reader.pid, 1)])
        reader.do("direct")
        sent.clear()
        copy.pass_over([(reader.pid, 1)])
        assert sent
        assert copy.by_digests == 1
    finally:
        copy.close()


def test_a_ring_for_asynchronous_reads_is_seen() -> None:

    libc = ctypes.CDLL(None, use_errno=True)
    context = ctypes.c_ulong(0)
    assert libc.syscall(206, 8, ctypes.byref(context)) == 0, os.strerror(ctypes.get_errno())
    try:
        assert reads_directly(os.getpid())
    finally:
        libc.syscall(207, context)
    assert not reads_directly(os.getpid())


def test_a_file_of_a_file_system_that_reads_directly_by_itself_is_seen(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The machine has no FUSE, so the file system that the file is on stands for one.
    assert not reads_directly(reader.pid)
    fstypes = {mount.fstype for mount in procfs.mounts(reader.pid)}
    monkeypatch.setattr(direct_io, "_DIRECT_FSTYPES", tuple(fstypes))
    assert reads_directly(reader.pid)
    reader.do("close")
