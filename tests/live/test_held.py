"""A held container whose CRIU, agent or source is killed between the last steps."""

from __future__ import annotations

from pathlib import Path

from migrate.live.journal import Journal
from migrate.live.phases import Phase
from migrate.live.recover import record_commit
from tests.live.moving import ID, Moved, pause_a_moment, stopped
from tests.support.hosts import Host


def pids_of(host: Host, program: str) -> list[str]:
    lines = host.run(["ps", "-eo", "pid=,comm="]).stdout.splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith(program)]


def ports(host: Host) -> list[str]:
    """Return the names of a host's links that are on a bridge."""
    lines = host.run(["ip", "-o", "link", "show"]).stdout.splitlines()
    return [line.split()[1].rstrip(":").partition("@")[0] for line in lines if " master " in line]


def test_criu_killed_while_it_holds_is_no_loss(container: Moved) -> None:
    with container.stopped_at("source:before:COMMITTED:stop") as source:
        found = pids_of(container.host2, "criu")
        assert found
        container.host2.run(["kill", "-KILL", *found])
        pause_a_moment()
        container.go_on()
        assert source.wait() == 1
    container.must_run_on("host1")


def test_a_link_that_the_killed_agent_did_not_bring_up_comes_up(container: Moved) -> None:
    before = ports(container.host2)
    with container.stopped_at("destination:before:ACTIVE:stop") as source:
        made = [name for name in ports(container.host2) if name not in before]
        assert made
        container.host2.run(["ip", "link", "set", made[0], "nomaster"])
        for pid in stopped(container.host2):
            container.host2.run(["kill", "-KILL", str(pid)])
        assert source.wait() == 0
    container.must_run_on("host2")


def test_a_commit_is_recorded_where_a_restart_has_lost_the_records_before(tmp_path: Path) -> None:
    with Journal.create("source", str(tmp_path / "source" / ID)) as journal:
        for phase in (Phase.PREPARED, Phase.COPYING):
            journal.enter(phase)
        journal.intend(Phase.FROZEN)
        record_commit(journal)
        assert journal.reached is Phase.COMMITTED


def test_what_was_paused_after_a_rollback_is_not_woken_by_its_recovery(container: Moved) -> None:
    with container.stopped_at("destination:after:HELD:stop") as source:
        container.cut_off()
        container.go_on()
        assert source.wait() == 1
    container.host1.run(["migrate", "pause", ID])
    container.reconnect()
    container.recover()
    assert container.status(container.host1) == "paused"
    container.host1.run(["migrate", "resume", ID])
    container.must_run_on("host1")
