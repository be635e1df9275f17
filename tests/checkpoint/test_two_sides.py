"""A stop-copy on one host: gate, memory stream, fence; and whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.checkpoint import netns
from migrate.checkpoint.dump import Dump
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.fence import Fence
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.options import Request
from migrate.checkpoint.page_store import PageStore
from migrate.checkpoint.pages import PageSource
from migrate.checkpoint.prepare import prepared
from migrate.checkpoint.restore import Restore
from migrate.checkpoint.session import Notification
from migrate.errors import CriuError
from migrate.runtime import cgroup
from migrate.runtime.spec import decode
from tests.checkpoint.conftest import Box, Maker, eventually
from tests.support.folders import CHECKOUT

pytestmark = pytest.mark.criu

REQUEST = Request(network="external", network_lock="skip", log_level=2)
STEPS = ("pre-dump", "network-lock", "post-dump")


@pytest.fixture
def payload(box: Maker) -> Box:
    """A running payload with some memory of its own."""
    made = box("/bin/payload", "--status", "/status", "--memory", "8")
    made.start()
    eventually(lambda: made.number("ticks") > 20, "it runs")
    return made


class Side:
    """The destination: a place for a second incarnation of the container."""

    def __init__(self, stack: contextlib.ExitStack, criu: str, source: Box, folder: Path) -> None:
        self.facts = source.facts()
        path = source.bundle / "config.json"
        spec = decode(path.read_bytes(), str(path))
        self.cgroup = cgroup.resolve(None, f"{source.id}-there")
        cgroup.create(self.cgroup, {})
        stack.callback(self._end)
        (folder / "work").mkdir()
        network = netns.fresh(loopback_is_up=True)
        stack.callback(os.close, network)
        self.images = stack.enter_context(ImageDirectory(str(folder / "there"), create=True))
        place, target = stack.enter_context(
            prepared(
                spec,
                str(source.bundle),
                self.facts,
                REQUEST,
                cgroup=self.cgroup,
                work=str(folder / "work"),
                network=network,
            )
        )
        self.restore = stack.enter_context(
            Restore(
                criu,
                self.facts,
                REQUEST,
                place=place,
                target=target,
                images=self.images,
                gated=True,
            )
        )
        self.pid = 0

    def _end(self) -> None:
        cgroup.kill(self.cgroup)
        if self.pid:
            os.waitpid(self.pid, 0)
        cgroup.destroy(self.cgroup)


@pytest.fixture
def there(payload: Box, criu: str, tmp_path: Path) -> Iterator[Side]:
    """The other side, its restore waiting at the gate."""
    with contextlib.ExitStack() as stack:
        yield Side(stack, criu, payload, tmp_path)


def stands_still(box: Box) -> bool:
    """Tell whether the payload does not tick."""
    before = box.number("ticks")
    time.sleep(0.08)
    return box.number("ticks") == before


def dump_of(box: Box, criu: str, images: ImageDirectory, pages: PageSource | None = None) -> Dump:
    """Return a dump of the container, to be run."""
    return Dump(criu, box.facts(), REQUEST, cgroup=box.record["cgroup"], images=images, pages=pages)


def test_a_container_moves_through_gate_and_stream(
    payload: Box, there: Side, criu: str, tmp_path: Path
) -> None:
    seen: list[str] = []
    held = threading.Event()

    def hold(notification: Notification) -> bool:
        assert notification.pid > 0
        assert stands_still(payload)
        seen.append("held")
        held.set()
        return True

    store = PageStore(there.images.descriptor)
    pages = PageSource(store.feed)
    there.restore.start({"post-restore": hold})
    with (
        ImageDirectory(str(tmp_path / "here"), create=True) as images,
        dump_of(payload, criu, images, pages) as dump,
    ):

        def commit(_: Notification) -> bool:
            manifest = dump.manifest
            assert manifest is not None
            assert dump.fence.is_closed()
            assert store.finish() == manifest.memory
            inventory = there.images.receive(manifest, images.contents(manifest))
            there.restore.open_gate(inventory)
            assert held.wait(20)
            seen.append("committed")
            return True

        dump.run({"post-dump": commit})
        seen.append("ended")
        assert not any(name.startswith("pages-") for name in images.names())
        assert dump.times().frozen_us > 0
    there.pid = there.restore.wait()
    assert seen == ["held", "committed", "ended"]
    assert payload.status == "stopped"
    os.kill(there.pid, signal.SIGUSR2)
    eventually(lambda: payload.words().get("memory") == "intact", "its memory is intact")
    there.images.verify(there.images.sign_off(there.facts, criu="4.2.1"))


@pytest.mark.parametrize("step", ["pre-resume", "post-resume"])
def test_what_was_let_go_runs_on_whatever_happens_to_criu(
    payload: Box, there: Side, criu: str, tmp_path: Path, step: str
) -> None:
    def kill(_: Notification) -> bool:
        os.kill(there.restore.criu_pid, signal.SIGKILL)
        return True

    def hold(_: Notification) -> bool:
        held.set()
        return True

    store = PageStore(there.images.descriptor)
    held = threading.Event()
    there.restore.start({"post-restore": hold, step: kill})
    with (
        ImageDirectory(str(tmp_path / "here"), create=True) as images,
        dump_of(payload, criu, images, PageSource(store.feed)) as dump,
    ):

        def commit(_: Notification) -> bool:
            assert dump.manifest is not None
            store.finish()
            contents = images.contents(dump.manifest)
            there.restore.open_gate(there.images.receive(dump.manifest, contents))
            return held.wait(20)

        dump.run({"post-dump": commit})
    there.pid = there.restore.wait()
    ticks = payload.number("ticks")
    eventually(lambda: payload.number("ticks") > ticks + 50, "it runs on")
    os.kill(there.pid, signal.SIGUSR2)
    eventually(lambda: payload.words().get("memory") == "intact", "its memory is intact")


def test_pipes_that_cannot_follow_lead_to_dev_null(box: Maker, criu: str, tmp_path: Path) -> None:
    talker = box("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo ticks=$i >/status; done")
    reading, writing = os.pipe()
    talker.start(stdio=writing)
    os.close(writing)
    drain = threading.Thread(
        target=lambda: [None for _ in iter(lambda: os.read(reading, 65536), b"")]
    )
    drain.start()
    eventually(lambda: talker.number("ticks") > 3, "it talks")
    with contextlib.ExitStack() as stack:
        there = Side(stack, criu, talker, tmp_path)
        there.restore.start()
        images = stack.enter_context(ImageDirectory(str(tmp_path / "here"), create=True))
        with dump_of(talker, criu, images) as dump:
            manifest = dump.run()
        there.restore.open_gate(there.images.receive(manifest, images.contents(manifest)))
        there.pid = there.restore.wait()
        before = talker.number("ticks")
        eventually(lambda: talker.number("ticks") > before + 10, "it talks on")
        output = f"/proc/{there.pid}/fd/1"
        eventually(lambda: os.readlink(output).endswith("/dev/null"), "it talks to nobody")
    drain.join()
    os.close(reading)


def test_an_aborted_gate_leaves_nothing(there: Side) -> None:
    there.restore.start()
    there.restore.abort()
    with pytest.raises(CriuError):
        there.restore.wait()
    there.restore.close()
    assert cgroup.procs(there.cgroup) == []


def test_closing_a_gated_restore_gives_it_up(there: Side) -> None:
    there.restore.start()
    time.sleep(0.1)
    there.restore.close()
    assert cgroup.procs(there.cgroup) == []


def test_a_restore_that_is_refused_when_held_is_killed_and_reaped(
    payload: Box, there: Side, criu: str, tmp_path: Path
) -> None:
    pids: list[int] = []

    def refuse(notification: Notification) -> bool:
        pids.append(notification.pid)
        return False

    there.restore.start({"post-restore": refuse})
    with (
        ImageDirectory(str(tmp_path / "here"), create=True) as images,
        dump_of(payload, criu, images) as dump,
    ):

        def fail(_: Notification) -> bool:
            manifest = dump.manifest
            assert manifest is not None
            inventory = there.images.receive(manifest, images.contents(manifest))
            there.restore.open_gate(inventory)
            with pytest.raises(CriuError):
                there.restore.wait()
            return False

        with pytest.raises(CriuError):
            dump.run({"post-dump": fail})
        dump.close()
        dump.fence.thaw()
    assert pids
    assert not os.path.exists(f"/proc/{pids[0]}")
    eventually(lambda: not stands_still(payload), "the source runs on")


@pytest.mark.parametrize("step", STEPS)
def test_a_dump_given_up_leaves_the_tasks_frozen_until_they_are_thawed(
    payload: Box, criu: str, tmp_path: Path, step: str
) -> None:
    with (
        ImageDirectory(str(tmp_path / "here"), create=True) as images,
        dump_of(payload, criu, images) as dump,
    ):
        with pytest.raises(CriuError):
            dump.run({step: lambda _: False})
        dump.close()
        assert dump.fence.is_closed()
        assert stands_still(payload)
        dump.fence.thaw()
    eventually(lambda: not stands_still(payload), "it runs on")
    assert payload.status == "running"


def test_what_a_handler_raises_comes_out_and_the_tasks_stay_frozen(
    payload: Box, criu: str, tmp_path: Path
) -> None:
    def broken(_: Notification) -> bool:
        raise ZeroDivisionError

    with (
        ImageDirectory(str(tmp_path / "here"), create=True) as images,
        dump_of(payload, criu, images) as dump,
    ):
        with pytest.raises(ZeroDivisionError):
            dump.run({"post-dump": broken})
        dump.close()
        assert dump.fence.is_closed()
        dump.fence.thaw()
    eventually(lambda: not stands_still(payload), "it runs on")


def test_a_page_stream_that_breaks_is_the_cause_that_is_told(
    payload: Box, criu: str, tmp_path: Path
) -> None:
    def lost(_: memoryview) -> None:
        raise ConnectionResetError("the link is gone")

    with (
        ImageDirectory(str(tmp_path / "here"), create=True) as images,
        dump_of(payload, criu, images, PageSource(lost)) as dump,
    ):
        with pytest.raises(ConnectionResetError, match="the link is gone"):
            dump.run()
        dump.close()
        assert dump.fence.is_closed()
        dump.fence.thaw()
    eventually(lambda: not stands_still(payload), "it runs on")


HOLDER = """
import json, os, sys, time
from migrate.checkpoint.dump import Dump
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.images import ImageDirectory
from migrate.checkpoint.options import Request
criu, step, images, data = sys.argv[1:]
data = json.loads(data)
request = Request(network="external", network_lock="skip")
def hold(_):
    open(os.path.join(images, "held"), "w").write(str(dump.criu_pid))
    time.sleep(100)
with ImageDirectory(images, create=True) as directory:
    facts, groups = Facts.from_json(data["facts"]), data["cgroup"]
    dump = Dump(criu, facts, request, cgroup=groups, images=directory)
    dump.run({step: hold})
"""


@contextlib.contextmanager
def holding(box: Box, criu: str, images: Path, step: str) -> Iterator[tuple[int, int]]:
    """Yield the pids of a process that holds a dump at a step, and of its CRIU."""
    import json

    images.mkdir()
    data = json.dumps({"facts": box.facts().to_json(), "cgroup": box.record["cgroup"]})
    with (images / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, criu, step, str(images), data],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        eventually((images / "held").exists, "it holds")
        eventually(lambda: (images / "held").read_text().isdigit(), "it holds")
        yield process.pid, int((images / "held").read_text())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("victim", ["tool", "criu"])
def test_whoever_is_killed_in_the_hold_the_tasks_never_run_by_themselves(
    payload: Box, criu: str, tmp_path: Path, victim: str
) -> None:
    fence = Fence(payload.record["cgroup"])
    with holding(payload, criu, tmp_path / "here", "post-dump") as (tool, criu_pid):
        assert fence.is_closed()
        os.kill(tool if victim == "tool" else criu_pid, signal.SIGKILL)
        gone: Callable[[], bool] = lambda: not os.path.exists(f"/proc/{criu_pid}/exe")  # noqa: E731
        eventually(gone, "criu has ended")
        assert fence.is_closed()
        assert stands_still(payload)
    fence.thaw()
    assert fence.was_frozen is False
    eventually(lambda: not stands_still(payload), "thawed by us, it runs on")
    os.kill(payload.record["pid"], signal.SIGUSR2)
    eventually(lambda: payload.words().get("memory") == "intact", "its memory is intact")


def test_a_tool_killed_before_the_dump_leaves_the_tasks_frozen(
    payload: Box, criu: str, tmp_path: Path
) -> None:
    fence = Fence(payload.record["cgroup"])
    with holding(payload, criu, tmp_path / "here", "network-lock") as (tool, criu_pid):
        os.kill(tool, signal.SIGKILL)
        eventually(lambda: not os.path.exists(f"/proc/{criu_pid}/exe"), "criu has ended")
        assert fence.is_closed()
        assert stands_still(payload)
    fence.thaw()
    eventually(lambda: not stands_still(payload), "thawed by us, it runs on")


def test_a_gated_criu_ends_when_its_tool_is_killed(criu: str, tmp_path: Path) -> None:
    script = """
import os, sys, time
from migrate.checkpoint.gate import Gate
from migrate.checkpoint.session import Session
criu, images = sys.argv[1:]
directory = os.open(images, os.O_RDONLY)
gate = Gate(directory)
session = Session(criu)
options = session.options()
options.images_dir_fd = directory
options.log_file = "restore.log"
open(images + "/pid", "w").write(str(session.pid))
session.request("RESTORE", options)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, criu, str(tmp_path)],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually((tmp_path / "restore.log").exists, "criu is on its way to the gate")
    pid = int((tmp_path / "pid").read_text())
    time.sleep(0.15)
    assert os.path.exists(f"/proc/{pid}/exe")
    process.kill()
    process.wait()
    eventually(lambda: not os.path.exists(f"/proc/{pid}/exe"), "criu has ended")


def test_facts_of_the_moved_are_those_that_were_sent(payload: Box) -> None:
    facts = payload.facts()
    assert Facts.from_json(facts.to_json()) == facts
    assert facts.memory_bytes > 8 << 20
    assert [each.command for each in facts.processes] == ["payload"]
