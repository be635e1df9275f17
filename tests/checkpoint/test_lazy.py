"""`checkpoint --lazy-pages`: memory that is fetched page by page, by a real CRIU or not at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.lazy import PIPE_BYTES, LazyServer, check_pipes, parse_address
from migrate.errors import CriuError, UsageError
from tests.checkpoint.conftest import MIGRATE, Box, Maker, eventually

LIMIT = Path("/proc/sys/fs/pipe-max-size")


@pytest.fixture
def pipes() -> Iterator[None]:
    """Pipes may be as large as CRIU needs them."""
    before = int(LIMIT.read_text())
    if before < PIPE_BYTES:
        LIMIT.write_text(str(PIPE_BYTES))
    yield
    LIMIT.write_text(str(before))


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def payload(box: Maker) -> Box:
    """A running payload with some memory of its own."""
    made = box("/bin/payload", "--status", "/status", "--memory", "24")
    made.start()
    eventually(lambda: made.number("ticks") > 20, "it runs")
    return made


class Serving:
    """A checkpoint that serves pages."""

    def __init__(self, payload: Box, port: int, work: Path) -> None:
        self.work = work
        reading, writing = os.pipe()
        self.log = (work.parent / "serving").open("wb")
        self.process = subprocess.Popen(
            [
                *(MIGRATE, "--root", payload.store.root),
                *("checkpoint", "--lazy-pages", "--page-server", f"127.0.0.1:{port}"),
                *("--status-fd", str(writing), "--image-path", str(payload.images)),
                *("--work-path", str(work), payload.id),
            ],
            pass_fds=(writing,),
            stdout=self.log,
            stderr=self.log,
            stdin=subprocess.DEVNULL,
        )
        os.close(writing)
        with open(reading, "rb") as status:
            self.told = status.read()

    def wait(self) -> int:
        """Return its exit status."""
        status = self.process.wait(30)
        self.log.close()
        return status

    def said(self) -> str:
        """Return what it printed."""
        return (self.work.parent / "serving").read_text()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The directory that CRIU's helper and its restore meet in."""
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.mark.criu
def test_memory_is_fetched_where_it_is_restored(
    payload: Box, criu: str, pipes: None, port: int, work: Path
) -> None:
    del pipes
    serving = Serving(payload, port, work)
    assert serving.told == b"\0", serving.said()
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))
    ticks = payload.number("ticks")
    images = str(payload.images)
    helper = subprocess.Popen(
        [
            *(criu, "lazy-pages", "--page-server", "--address", "127.0.0.1"),
            *("--port", str(port), "-D", images, "-W", str(work), "-o", "lazy.log"),
        ]
    )
    eventually((work / "lazy-pages.socket").exists, "the helper listens")
    # Its source keeps its name until the last page was fetched.
    there = f"{payload.id}-there"
    try:
        payload.migrate(
            *("restore", "-d", "--lazy-pages", "--image-path", images, "--work-path", str(work)),
            *("--bundle", str(payload.bundle), there),
        )
        assert helper.wait(30) == 0
        assert serving.wait() == 0, serving.said()
        eventually(lambda: payload.number("ticks") > ticks + 50, "it goes on")
        payload.migrate("kill", there, "USR2")
        eventually(lambda: payload.words().get("memory") == "intact", "its memory is intact")
    finally:
        payload.migrate("delete", "--force", there)
    assert sum(path.stat().st_size for path in payload.images.glob("pages-*")) < 4 << 20


@pytest.mark.criu
def test_a_client_that_goes_before_it_has_all_leaves_the_container_running(
    payload: Box, pipes: None, port: int, work: Path
) -> None:
    del pipes
    serving = Serving(payload, port, work)
    assert serving.told == b"\0", serving.said()
    with socket.create_connection(("127.0.0.1", port)):
        pass
    assert serving.wait() == 1
    assert "cannot be checkpointed" in serving.said() or "criu" in serving.said()
    ticks = payload.number("ticks")
    eventually(lambda: payload.number("ticks") > ticks + 50, "it goes on")
    payload.migrate("kill", payload.id, "USR2")
    eventually(lambda: payload.words().get("memory") == "intact", "its memory is intact")


@pytest.mark.criu
def test_an_interrupted_wait_for_a_client_leaves_the_container_running(
    payload: Box, pipes: None, port: int, work: Path
) -> None:
    del pipes
    serving = Serving(payload, port, work)
    assert serving.told == b"\0", serving.said()
    serving.process.send_signal(signal.SIGINT)
    assert serving.wait() != 0
    ticks = payload.number("ticks")
    eventually(lambda: payload.number("ticks") > ticks + 50, "it goes on")


def test_pipes_that_are_too_small_are_said_before_anything_is_frozen(pipes: None) -> None:
    del pipes
    check_pipes()
    LIMIT.write_text("1048576")
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    if effective >> 24 & 1:
        check_pipes()  # who may exceed it may
    else:
        with pytest.raises(CriuError, match="limit is 1048576"):
            check_pipes()


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:27", ("127.0.0.1", 27)), ("[::1]:65535", ("::1", 65535)), ("a:1", ("a", 1))],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:-1", "a:1x", "a:\u0661"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        parse_address(text)


def test_an_address_that_cannot_be_had_is_said() -> None:
    with pytest.raises(CriuError, match=r"192\.0\.2\.1:27: cannot assign"):
        LazyServer(("192.0.2.1", 27))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--page-server", "127.0.0.1:27"), "only supported with --lazy-pages"),
        (("--status-fd", "1"), "tells of lazy pages only"),
        (("--lazy-pages",), "no address and port"),
        (("--lazy-pages", "--page-server", "127.0.0.1:27", "--leave-running"), "--leave-running"),
        (("--lazy-pages", "--page-server", "127.0.0.1:27", "--status-fd", "99"), "is not open"),
    ],
)
@pytest.mark.criu
def test_options_that_do_not_fit_are_refused_and_the_container_runs(
    payload: Box, options: tuple[str, ...], said: str
) -> None:
    assert payload.checkpoint(*options, check=False) == 1
    assert said in payload.said
    assert payload.status == "running"
