"""The small parts of a migration: its report, its lines, its doors, its signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.checkpoint.facts import Facts, NetworkNamespace
from migrate.cli import showing
from migrate.errors import (
    LinkError,
    MigrationError,
    PeerError,
    ProtocolError,
    Refused,
    StateError,
)
from migrate.events import Finding, Log, PhaseEntered, Progress
from migrate.live import guard, inbox, report
from migrate.live.arrival import MIGRATIONS
from migrate.live.departure import work_folder
from migrate.live.fence import wait_for_no_tracer
from migrate.live.inbox import Call, Inbox, LinkGone
from migrate.live.incoming import Announced
from migrate.live.interruption import Interrupted, Interruptions
from migrate.live.network.plan import Plan
from migrate.live.phases import (
    DESTINATION_NEXT,
    MESSAGES,
    SOURCE_NEXT,
    Landing,
    Phase,
    may_follow,
    phase_of,
)
from migrate.live.reach import Way
from migrate.live.report import Bytes, Timeline
from migrate.live.restorer import Restorer
from migrate.live.wire import Fields
from migrate.live.work import Work
from migrate.runtime.state import Store, validate_id
from migrate.transport.channel import channel_pair
from migrate.transport.link import Link

# --- phases ---


def test_what_is_done_and_what_is_rolled_back_is_final() -> None:
    allowed = {before for before, after in SOURCE_NEXT.items() if Phase.ROLLED_BACK in after}
    assert allowed == {*Phase, None} - {Phase.DONE, Phase.ROLLED_BACK}
    assert not SOURCE_NEXT[Phase.DONE] | SOURCE_NEXT[Phase.ROLLED_BACK]


def test_a_destination_where_it_runs_is_never_discarded() -> None:
    assert Landing.DISCARDED not in DESTINATION_NEXT[Landing.ACTIVE]
    assert Landing.ACTIVE not in MESSAGES["discard"].after


def test_no_phase_of_one_side_follows_one_of_the_other() -> None:
    assert not may_follow(Phase.PREPARED, Landing.RESERVED)
    assert not may_follow(Landing.HELD, Phase.COMMITTED)
    with pytest.raises(ValueError, match="HELD"):
        phase_of("source", "HELD")


# --- report ---


def test_the_downtime_is_put_together_from_two_clocks_and_half_a_round_trip() -> None:
    timeline = Timeline(started=100.0)
    timeline.marks = {"freeze": 101.0, "committed": 101.5, "active": 101.6}
    built = report.build(
        timeline,
        report.Move(container="c", migration="m", hosts=("a", "b"), strategy="stop-copy"),
        round_trips=[0.5, 0.02, 0.04],
        resume_seconds=0.03,
        transfers={"memory": Bytes(10, 5)},
        wire_bytes=7,
    )
    assert built["downtime_seconds"] == pytest.approx(0.5 + 0.01 + 0.03)
    assert built["downtime_at_most_seconds"] == pytest.approx(0.6)
    assert [each["mark"] for each in built["time_line"]] == ["freeze", "committed", "active"]
    text = showing.report_text(built)
    assert "c moved from a to b by stop-copy" in text
    assert "540.0 ms, at most 600.0 ms" in text


def test_a_mark_counts_once() -> None:
    timeline = Timeline()
    timeline.mark("x")
    first = timeline.marks["x"]
    timeline.mark("x")
    assert timeline.marks["x"] == first
    assert timeline.between("x", "y") is None


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (PhaseEntered(side="source", phase="FROZEN"), "source: FROZEN"),
        (PhaseEntered(side="destination", phase="HELD", host="b"), "destination (b): HELD"),
        (Finding(check="x", verdict="ok", message="fine"), ""),
        (Finding(check="x", verdict="warn", message="m", hint="H."), "note: m (H.)"),
        (Finding(check="x", verdict="refuse", message="m"), "refused: m"),
        (Log(level="info", message="m"), "m"),
        (Log(level="warning", message="m"), "warning: m"),
        (Log(level="debug", message="m"), ""),
        (Progress(step="memory", done_bytes=1), ""),
    ],
)
def test_each_event_has_its_line(event: Any, line: str) -> None:
    assert showing.line_of(event) == line


def test_sizes_are_said_as_people_say_them() -> None:
    sizes = (0, 1023, 1024, 1536, 5 << 30)
    assert [showing._size(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
    ]


# --- values from the other side ---


@pytest.mark.parametrize(
    "ask",
    [
        lambda fields: fields.text("number"),
        lambda fields: fields.text("absent"),
        lambda fields: fields.text("nul"),
        lambda fields: fields.number("claim"),
        lambda fields: fields.number("negative"),
        lambda fields: fields.claim("number"),
        lambda fields: fields.object("text"),
    ],
)
def test_a_value_of_another_type_is_refused(ask: Callable[[Fields], object]) -> None:
    value = {"number": 1, "text": "x", "claim": True, "negative": -1, "nul": "a\0b"}
    with pytest.raises(ProtocolError, match="m: "):
        ask(Fields("m", value))


def test_a_call_with_no_object_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Fields("m", ["x"])
    assert Fields("m", None).optional_text("x") is None


def test_the_way_to_a_host_survives_a_journal() -> None:
    way = Way(target="root@b:22", agent=("migrate", "--root", "/x", "agent"), identity="/k")
    assert Way.from_json(way.to_json()) == way
    assert way.host == "b"
    with pytest.raises(MigrationError):
        Way.from_json({"agent": ["x"], "nonsense": 1})


# --- the agent's two doors ---


@pytest.fixture
def served(tmp_path: Path) -> Any:
    box = Inbox()
    box.listen(str(tmp_path))
    yield box
    box.stop_listening()


def test_a_later_agent_is_answered_at_the_door_in_the_folder(served: Inbox, tmp_path: Path) -> None:
    asked = Work("ask", lambda: inbox.ask(str(tmp_path), "status", {"container": "c"}, 5))
    asked.start()
    call = served.take()
    assert isinstance(call, Call)
    assert (call.method, call.value, call.from_link) == ("status", {"container": "c"}, False)
    call.answer({"reached": "HELD"})
    assert asked.result() == {"reached": "HELD"}


def test_an_error_comes_through_the_door_as_what_it_is(served: Inbox, tmp_path: Path) -> None:
    asked = Work("ask", lambda: inbox.ask(str(tmp_path), "commit", None, 5))
    asked.start()
    call = served.take()
    assert isinstance(call, Call)
    call.refuse(Refused("no", "Ask again."))
    with pytest.raises(PeerError) as caught:
        asked.result()
    assert (caught.value.code, caught.value.hint) == ("refused", "Ask again.")


def test_nonsense_at_the_door_is_turned_away(served: Inbox, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / inbox.SOCKET))
        connection.sendall(b"[1]\n")
        assert connection.recv(10) == b""
    assert served is not None


def test_a_door_that_is_not_there_is_a_broken_link(tmp_path: Path) -> None:
    with pytest.raises(LinkError):
        inbox.ask(str(tmp_path), "status", None, 1)


def test_the_link_s_end_is_the_last_thing_it_says() -> None:
    ours, theirs = channel_pair()
    box = Inbox()
    with Link(ours, "source") as source, Link(theirs, "destination") as destination:
        greeting = Work("greet", destination.handshake)
        greeting.start()
        source.handshake()
        greeting.result()
        box.follow(destination)
        asked = Work("call", lambda: source.call("ping", None, 5))
        asked.start()
        call = box.take()
        assert isinstance(call, Call)
        assert call.from_link
        call.answer("pong")
        assert asked.result() == "pong"
        source.close()
        assert isinstance(box.take(), LinkGone)


# --- signals ---


def test_a_signal_raises_once_and_then_is_only_noted() -> None:
    with Interruptions() as interruptions:
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        interruptions.defer()


def test_a_deferred_signal_is_let_pass() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with Interruptions() as interruptions:
        interruptions.defer()
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is before


# --- a restore that is held ---


class Restore:
    """Asks as CRIU does, from a thread of its own."""

    def __init__(
        self,
        answers: list[bool],
        *,
        fails: bool = False,
        fails_after: str = "",
        vanishes: bool = False,
    ) -> None:
        self.answers = answers
        self._fails = fails
        self._fails_after = fails_after
        self._vanishes = vanishes
        self._has_failed = fails
        self._thread = threading.Thread()

    def start(self, handlers: Any) -> None:
        from migrate.checkpoint.session import Notification

        def run() -> None:
            for script in (
                *("setup-namespaces", "post-restore", "network-unlock"),
                *("pre-resume", "post-resume"),
            ):
                if self._fails:
                    return
                agreed = handlers[script](Notification(script, 7))
                self.answers.append(agreed)
                # From `post-restore` on CRIU only logs what it hears.
                if not agreed and script in ("setup-namespaces", "post-restore"):
                    return
                if script == self._fails_after:
                    self._has_failed = True
                    return

        self._thread = threading.Thread(target=run)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def said_no(self) -> bool:
        return self._has_failed and not self._vanishes

    def wait(self) -> int:
        self._thread.join()
        if self._has_failed or not self.answers[-1]:
            raise MigrationError("refused")
        return 7

    def abort(self) -> None:
        return


def test_nothing_runs_and_no_link_comes_up_before_it_is_let_go() -> None:
    answers: list[bool] = []
    done: list[str] = []
    restorer = Restorer(
        Restore(answers), connect=lambda: done.append("up"), pause=lambda: done.append("paused")
    )
    restorer.start()
    assert restorer.wait_held() == 7
    time.sleep(0.02)
    assert (done, restorer.has_resumed) == ([], False)
    assert restorer.let_go() > 0
    assert restorer.may_have_run
    assert restorer.finish() is None
    assert done == ["up", "paused"]


def test_what_is_refused_never_runs() -> None:
    answers: list[bool] = []
    done: list[str] = []
    restorer = Restorer(Restore(answers), connect=lambda: done.append("up"), pause=None)
    restorer.start()
    restorer.wait_held()
    restorer.refuse()
    assert answers == [True, False]
    assert done == []


def test_a_restore_that_fails_says_why_to_who_waits_for_it() -> None:
    restorer = Restorer(Restore([], fails=True), connect=lambda: None, pause=None)
    restorer.start()
    with pytest.raises(MigrationError, match="refused"):
        restorer.wait_held()
    restorer.finish()


def test_a_restore_that_fails_before_its_last_question_has_not_run() -> None:
    restorer = Restorer(Restore([], fails_after="network-unlock"), connect=lambda: None, pause=None)
    restorer.start()
    restorer.wait_held()
    with pytest.raises(MigrationError, match="refused"):
        restorer.let_go()
    assert not restorer.may_have_run
    restorer.finish()


def test_where_criu_vanishes_after_the_verdict_nobody_knows_whether_it_ran() -> None:
    restorer = Restorer(
        Restore([], fails_after="network-unlock", vanishes=True), connect=lambda: None, pause=None
    )
    restorer.start()
    restorer.wait_held()
    with pytest.raises(MigrationError, match="refused"):
        restorer.let_go()
    assert restorer.may_have_run
    restorer.finish()


@pytest.mark.parametrize("error", [MigrationError("no"), OSError(24, "no"), ValueError("no")])
def test_no_error_in_its_last_steps_stops_what_runs_anyway(error: Exception) -> None:
    def fail() -> None:
        raise error

    restorer = Restorer(Restore([]), connect=fail, pause=fail)
    restorer.start()
    restorer.wait_held()
    assert restorer.let_go() > 0
    assert restorer.may_have_run
    problem = restorer.finish()
    assert problem is not None
    assert "paused" in problem.message


def test_a_link_that_does_not_come_up_stops_nobody() -> None:
    def fail() -> None:
        raise MigrationError("no link")

    restorer = Restorer(Restore([]), connect=fail, pause=None)
    restorer.start()
    restorer.wait_held()
    restorer.let_go()
    problem = restorer.finish()
    assert problem is not None
    assert problem.message == "network: no link"


# --- what the other side says ---


@pytest.mark.parametrize(
    "wrong",
    [{"created": None}, {"annotations": {"a": 1}}, {"stdio": "none"}, {"terminal": "no"}],
)
def test_a_record_that_could_not_be_kept_is_refused_before_anything_is_made(
    wrong: dict[str, object],
) -> None:
    record = {
        "created": "2026-01-01T00:00:00Z",
        "oci_version": "1.2.0",
        "owner": "root",
        "annotations": {},
        "stdio": [],
        "terminal": False,
        **wrong,
    }
    said = {
        "config": '{"root": {"path": "rootfs"}}',
        "facts": Facts(
            container_id="a",
            pid=7,
            rootfs="/r",
            terminal=False,
            cgroup_namespace=False,
            has_nested_cgroups=False,
            user_namespace=False,
            network=NetworkNamespace(kind="host", inode=1, path=""),
        ).to_json(),
        "network": Plan(kind="host").to_json(),
        "record": record,
        "memory": "memory",
        "paused": False,
        "migration": "m",
    }
    with pytest.raises(ProtocolError, match="record"):
        Announced.of(Fields("receive", said))


# --- the fence ---


def test_a_debugger_is_nobody_to_wait_for() -> None:
    command = "import ctypes, time; ctypes.CDLL(None).ptrace(0, 0, 0, 0); print(flush=True)"
    command += "; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as traced:
        assert traced.stdout is not None
        traced.stdout.readline()
        try:
            before = time.monotonic()
            assert wait_for_no_tracer([traced.pid])
            assert time.monotonic() - before < 1
        finally:
            traced.kill()


# --- marks ---


def test_a_bundle_belongs_to_the_container_that_left_it(tmp_path: Path) -> None:
    assert not guard.was_left_by(str(tmp_path), "a")
    guard.mark_bundle(str(tmp_path), "a")
    assert guard.was_left_by(str(tmp_path), "a")
    assert not guard.was_left_by(str(tmp_path), "b")
    (tmp_path / guard.MARK).write_text("nonsense")
    assert not guard.was_left_by(str(tmp_path), "a")


def test_no_container_s_folder_can_be_another_migration_s() -> None:
    for name in (MIGRATIONS, os.path.basename(work_folder(Store("/r"), "a"))):
        with pytest.raises(StateError):
            validate_id(name)
