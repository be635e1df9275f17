"""`migrate live`: the way it should go, and what it says of it."""

from __future__ import annotations

import json
import os
import pty
import signal
import time
from collections.abc import Iterator

import pytest

from tests.live.moving import BUNDLE, ID, Moved, eventually, moved, pause_a_moment, read
from tests.support.bundle import make_bundle
from tests.support.folders import SSH_FOLDER
from tests.support.hosts import Site
from tests.support.payload import Status


@pytest.fixture
def unmade(hosts: Site) -> Iterator[Moved]:
    """A container that the test makes as it needs it."""
    with moved(hosts) as container:
        yield container


def test_a_container_moves_and_nobody_notices(container: Moved) -> None:
    container.live()
    container.must_run_on("host2")


def test_it_comes_back_into_the_bundle_it_left(container: Moved) -> None:
    container.live()
    container.must_run_on("host2")
    container.host2.run(["migrate", "live", ID, "--to", "host1"])
    container.must_run_on("host1")


def test_it_moves_by_the_ssh_program_too(container: Moved) -> None:
    container.live("--transport", "openssh")
    container.must_run_on("host2")


def test_its_memory_arrives_as_it_was(unmade: Moved) -> None:
    unmade.create(["--memory", "48", "--mix", "mixed", "--dirty", "5"])
    unmade.live()
    unmade.must_run_on("host2")
    unmade.host2.run(["migrate", "kill", ID, "USR2"])
    status = unmade.host2.folder(f"{BUNDLE}/rootfs/status")
    eventually(lambda: verdict(status) not in ("", "none"), "memory is checked")
    assert verdict(status) == "intact"


def verdict(path: object) -> str:
    status = Status.read(path)  # type: ignore[arg-type]  # a path
    return status.memory if status else ""


def test_a_paused_container_arrives_paused(container: Moved) -> None:
    container.host1.run(["migrate", "pause", ID])
    written = container.log(container.host1)
    container.live()
    assert container.status(container.host1) == "absent"
    assert container.status(container.host2) == "paused"
    pause_a_moment()
    assert container.log(container.host2) == written, "it took a step"
    container.host2.run(["migrate", "resume", ID])
    container.must_run_on("host2")


def test_its_record_is_the_same_over_there(container: Moved) -> None:
    before = json.loads(container.host1.run(["migrate", "state", ID]).stdout)
    container.live()
    after = json.loads(container.host2.run(["migrate", "state", ID]).stdout)
    assert {**after, "pid": 0} == {**before, "pid": 0}
    config = container.host2.folder(f"/run/migrate/{ID}/config.json")
    assert json.loads(config.read_text())["process"]["args"][0] == "payload"


def test_the_life_of_a_moved_container_is_an_ordinary_one(container: Moved) -> None:
    container.live()
    host = container.host2
    assert "payload" in host.run(["migrate", "ps", ID]).stdout
    assert host.run(["migrate", "exec", ID, "cat", "/proc/1/comm"]).stdout == "payload\n"
    assert host.run(["migrate", "events", "--stats", ID]).stdout
    host.run(["migrate", "pause", ID])
    host.run(["migrate", "resume", ID])
    host.run(["migrate", "kill", ID, "KILL"])
    eventually(lambda: container.status(host) == "stopped", "it ends")
    host.run(["migrate", "delete", ID])


def test_another_bundle_and_another_state_root_over_there(container: Moved) -> None:
    container.live("--bundle", "/srv/elsewhere", "--remote-root", "/run/migrate/elsewhere")
    state = ["migrate", "--root", "/run/migrate/elsewhere", "state", ID]
    answer = json.loads(container.host2.run(state).stdout)
    assert (answer["status"], answer["bundle"]) == ("running", "/srv/elsewhere")
    container.host2.run(["migrate", "--root", "/run/migrate/elsewhere", "delete", "-f", ID])


# --- what is said ---


def test_a_pipe_gets_plain_lines_and_the_report(container: Moved) -> None:
    done = container.live()
    lines = done.stderr.splitlines()
    for words in ("source: PREPARED", "destination (host2): HELD", "source: DONE"):
        assert any(line.endswith(words) for line in lines), done.stderr
    assert f"{ID} moved from host1 to host2" in done.stdout
    assert "downtime" in done.stdout
    assert "\x1b" not in done.stderr + done.stdout


def test_a_program_gets_an_object_a_line(container: Moved) -> None:
    done = container.live("--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    phases = [each["phase"] for each in events if each["event"] == "PhaseEntered"]
    assert phases[-1] == "DONE"
    assert {each["host"] for each in events} == {"", "host2"}
    report = events[-1]["report"]
    assert 0 < report["downtime_seconds"] <= report["downtime_at_most_seconds"]
    assert report["downtime_at_most_seconds"] < report["total_seconds"]
    assert report["bytes"]["memory"]["raw"] > 0
    assert report["wire_bytes"] > 0
    gap_ms = container.seen()["largest_gap_ms"]
    assert report["downtime_seconds"] * 1000 < gap_ms + 100


def test_a_terminal_gets_a_moving_display(container: Moved) -> None:
    ours, theirs = pty.openpty()
    with container.host1.popen(
        ["migrate", "live", ID, "--to", "host2"], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while process.poll() is None:
            shown += drained(ours)
        assert process.wait() == 0
    shown += drained(ours)
    os.close(ours)
    assert b"\x1b[" in shown
    assert b"memory" in shown
    assert b"moved from host1 to host2" in shown


def drained(fd: int) -> bytes:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


# --- what is refused, before anything is touched ---


def refused(container: Moved, *options: str, to: str = "host2") -> str:
    """Run it, see that it is refused and that all is as it was; return what it says."""
    done = container.live(*options, to=to, check=False)
    assert done.returncode == 1, done.stderr
    assert container.status(container.host2) == "absent"
    container.must_run_on("host1")
    assert not container.host2.folder(BUNDLE).exists() or options or to != "host2"
    return done.stderr


def test_an_unknown_host_key_is_refused_with_the_command_that_adds_it(container: Moved) -> None:
    known = container.host1.folder(f"{SSH_FOLDER}/known_hosts")
    before = known.read_text()
    try:
        known.write_text("")
        said = refused(container)
        assert "unknown host key" in said
        assert f">> {SSH_FOLDER}/known_hosts" in said
    finally:
        known.write_text(before)


def test_a_changed_host_key_is_refused(container: Moved) -> None:
    known = container.host1.folder(f"{SSH_FOLDER}/known_hosts")
    before = known.read_text()
    lines = before.splitlines()
    host1, host2 = (next(line for line in lines if name in line) for name in ("host1", "host2"))
    try:
        known.write_text(f"{host2.split()[0]} {' '.join(host1.split()[1:])}\n")
        said = refused(container)
        assert "key" in said
        assert "changed" in said.lower() or "not the known" in said.lower(), said
    finally:
        known.write_text(before)


def test_a_host_that_is_not_there_is_named(container: Moved) -> None:
    said = refused(container, "--connect-timeout", "2s", to="10.77.0.77")
    assert "10.77.0.77" in said


def test_a_host_without_this_program_says_so(container: Moved) -> None:
    said = refused(container, "--remote-command", "/nowhere/migrate")
    assert "not found" in said


def test_an_id_that_is_taken_over_there_is_refused(container: Moved) -> None:
    other = container.host2
    make_bundle(other.folder("/srv/other"))
    other.run_detached(["migrate", "run", "-d", "--bundle", "/srv/other", ID])
    done = container.live(check=False)
    assert done.returncode == 1
    assert "already exists" in done.stderr
    assert container.status(other) == "running"
    other.run(["migrate", "delete", "--force", ID])
    container.must_run_on("host1")


def test_a_bundle_of_somebody_else_over_there_is_refused(container: Moved) -> None:
    folder = container.host2.folder(BUNDLE)
    folder.mkdir()
    (folder / "precious").write_text("x")
    done = container.live(check=False)
    assert done.returncode == 1
    assert "--bundle" in done.stderr
    assert (folder / "precious").read_text() == "x"
    container.must_run_on("host1")


def test_a_container_that_does_not_run_is_refused(container: Moved) -> None:
    container.host1.run(["migrate", "kill", ID, "KILL"])
    eventually(lambda: container.status(container.host1) == "stopped", "it ends")
    done = container.live(check=False)
    assert done.returncode == 1
    assert "stopped" in done.stderr
    unknown = container.host1.run(["migrate", "live", "nobody", "--to", "host2"], check=False)
    assert "does not exist" in unknown.stderr


def test_a_container_with_a_terminal_is_refused_before_anything_is_touched(
    unmade: Moved,
) -> None:
    """Its other end stays here; hung up over there, a shell would end."""
    unmade.create()
    host = unmade.host1
    host.run(["migrate", "delete", "--force", ID])
    ours, theirs = pty.openpty()
    command = ["migrate", "run", "-d", "--bundle", BUNDLE, ID]
    with host.popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        assert process.wait() == 0
    os.close(theirs)
    done = unmade.live(check=False)
    os.close(ours)
    assert done.returncode == 1
    assert "a terminal of this host" in done.stderr
    assert unmade.where() == ["host1"]
    assert not unmade.leftovers()


def test_a_pipe_as_standard_output_becomes_the_null_device_over_there(unmade: Moved) -> None:
    unmade.create()
    host = unmade.host1
    host.run(["migrate", "delete", "--force", ID])
    ours, theirs = os.pipe()
    with host.popen(["migrate", "run", "-d", "--bundle", BUNDLE, ID], stdout=theirs) as process:
        assert process.wait() == 0
    os.close(theirs)
    done = unmade.live()
    os.close(ours)
    assert "becomes /dev/null over there" in done.stderr
    moved_pid = json.loads(unmade.host2.run(["migrate", "state", ID]).stdout)["pid"]
    link = unmade.host2.run(["readlink", f"/proc/{moved_pid}/fd/1"]).stdout
    assert link == "/dev/null\n"


# --- what comes between ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["source:after:COPYING", "source:after:FROZEN"])
def test_a_signal_before_the_commit_rolls_back(
    container: Moved, number: signal.Signals, place: str
) -> None:
    with container.stopped_at(f"{place}:stop") as source:
        source.signal(number)
        container.go_on()
        assert source.wait() == 1
    said = read(container.host1.folder("/srv/output"))
    assert number.name in said
    assert "it runs on here" in said
    container.must_run_on("host1")


def test_a_signal_after_the_commit_is_let_pass(container: Moved) -> None:
    with container.stopped_at("source:after:COMMITTED:stop") as source:
        source.signal(signal.SIGINT)
        source.signal(signal.SIGTERM)
        container.go_on()
        assert source.wait() == 0
    container.must_run_on("host2")


@pytest.mark.parametrize("place", ["source:after:PREPARED", "source:after:COPYING"])
def test_a_container_that_ends_meanwhile_leaves_a_clean_message(
    container: Moved, place: str
) -> None:
    with container.stopped_at(f"{place}:stop") as source:
        state = json.loads(container.host1.run(["migrate", "state", ID]).stdout)
        container.host1.run(["kill", "-KILL", str(state["pid"])])
        eventually(lambda: container.status(container.host1) == "stopped", "it ends")
        container.go_on()
        assert source.wait() == 1
    said = read(container.host1.folder("/srv/output"))
    assert "ended while it was being migrated" in said
    assert "unexpected" not in said
    assert container.status(container.host2) == "absent"
    assert not container.leftovers()
    container.host1.run(["migrate", "delete", ID])


def test_a_second_migration_of_it_is_refused(container: Moved) -> None:
    with container.stopped_at("source:after:COPYING:stop") as source:
        second = container.live(check=False)
        assert second.returncode == 1
        assert "is being migrated by pid" in second.stderr
        container.go_on()
        assert source.wait() == 0
    container.must_run_on("host2")


def test_commands_that_would_come_between_are_refused(container: Moved) -> None:
    with container.stopped_at("source:after:FROZEN:stop") as source:
        for command in ("resume", "pause", "delete"):
            done = container.host1.run(["migrate", command, ID], check=False)
            assert done.returncode == 1
            assert "is being moved" in done.stderr
        assert container.status(container.host1) == "paused"
        container.go_on()
        assert source.wait() == 0
    container.must_run_on("host2")


def test_a_tool_stopped_for_a_while_goes_on(container: Moved) -> None:
    with container.stopped_at("destination:after:VERIFIED:stop") as source:
        time.sleep(2)
        container.go_on()
        assert source.wait() == 0
    container.must_run_on("host2")


def test_recover_waits_for_the_tool_that_drives_the_migration(container: Moved) -> None:
    with (
        container.stopped_at("source:after:COPYING:stop") as source,
        container.host1.popen(["migrate", "recover", ID]) as recovery,
    ):
        container.go_on()
        assert source.wait() == 0
        assert recovery.wait() == 0
    container.must_run_on("host2")


def test_recover_twice_at_once_has_one_end(container: Moved) -> None:
    container.live(fault="source:after:SENT:kill", check=False)
    first, second = (container.host1.popen(["migrate", "recover", ID]) for _ in range(2))
    with first, second:
        assert (first.wait(), second.wait()) == (0, 0)
    container.must_run_on("host1")


def test_recover_without_a_migration_says_so(container: Moved) -> None:
    done = container.recover()
    assert f"no migration of {ID} is unfinished here" in done.stderr
    container.must_run_on("host1")
