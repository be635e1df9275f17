"""Standard streams on files of the host: opened in any way, restored onto any other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.reopening import after_open
from tests.checkpoint.conftest import Maker, eventually

COUNTER = "i=0; while :; do i=$((i+1)); echo $i; echo counted=$i > /status; sleep 0.01; done"
NOFOLLOW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


@pytest.fixture(params=["a temporary file", "no links followed", "with something in it"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file of the host."""
    if request.param == "a temporary file":
        with tempfile.TemporaryFile(dir=tmp_path) as file:
            yield file.fileno()
        return
    descriptor = os.open(tmp_path / "log", NOFOLLOW)
    if request.param == "with something in it":
        os.write(descriptor, b"written before\n" * 10)
    yield descriptor
    os.close(descriptor)


@pytest.mark.criu
@pytest.mark.parametrize("onto", ["nothing", "another file"])
def test_a_container_with_its_output_in_a_file_is_restored(
    box: Maker, stream: int, tmp_path: Path, onto: str
) -> None:
    counter = box("sh", "-c", COUNTER)
    counter.start(stdio=stream)
    eventually(lambda: counter.number("counted") > 3, "it counts")
    counter.checkpoint()
    stopped_at = counter.number("counted")
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    counter.restore(stdio=None if onto == "nothing" else other)
    os.close(other)
    eventually(lambda: counter.number("counted") > stopped_at, "it goes on")
    if onto == "another file":
        eventually(lambda: str(stopped_at + 1) in (tmp_path / "other").read_text(), "it writes")


def test_flags_of_the_lookup_do_not_outlive_it() -> None:
    assert after_open(NOFOLLOW) == os.O_RDWR | os.O_CREAT
    assert after_open(os.O_WRONLY | os.O_TMPFILE) == os.O_WRONLY
    assert after_open(os.O_DIRECTORY | os.O_APPEND) == os.O_DIRECTORY | os.O_APPEND
