"""`migrate drain` between three hosts: everybody moves, and one's failure is its own."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.live.moving import WIPED, eventually, read, stopped
from tests.support import leaks
from tests.support.bundle import Config, make_bundle
from tests.support.hosts import Host, Site
from tests.support.processes import Process

pytestmark = pytest.mark.hosts

AGENT = "/srv/agent"
OUTPUT = "/srv/output"
HERD = ("a", "b", "c")
BOTH = "host2,host3"


@pytest.fixture(scope="module")
def three() -> Iterator[Site]:
    """Three hosts."""
    with Site(("host1", "host2", "host3")) as made:
        yield made


class Herd:
    """Some containers, which begin on host1; each counts into a log."""

    def __init__(self, site: Site) -> None:
        self.hosts: list[Host] = [site.host1, site.host2, site.host3]
        self.host1, self.host2, self.host3 = self.hosts

    def make(self, names: Sequence[str] = HERD, memory: int = 0, change: Any = None) -> None:
        for name in names:
            words = ["payload", "--log", "/log", "--memory", str(memory)]
            make_bundle(self.host1.folder(f"/srv/{name}"), words, change=change)
            bundle = f"/srv/{name}"
            self.host1.run_detached(["migrate", "run", "-d", "--bundle", bundle, name])
        for name in names:
            eventually(lambda name=name: self.log(self.host1, name), "it counts")

    def drain(self, *words: str, to: str = BOTH) -> CompletedProcess[str]:
        return self.host1.run(["migrate", "drain", "--to", to, *words], check=False)

    @contextmanager
    def stopped_at(self, fault: str, count: int, *words: str) -> Iterator[Process]:
        """Drain until so many migrations have stopped themselves, then let them go on."""
        with (
            open(self.host1.folder("/srv") / "output", "wb") as file,
            self.host1.popen(
                ["migrate", "drain", "--to", BOTH, *words],
                stdout=file,
                stderr=file,
                env={"MIGRATE_FAULT": fault},
            ) as process,
        ):
            try:
                eventually(lambda: len(self.stopped()) == count, self.said(), 30)
                yield process
            finally:
                self.go_on()

    def said(self) -> str:
        return read(self.host1.folder(OUTPUT))

    def stopped(self) -> list[int]:
        return stopped(self.host1)

    def go_on(self) -> None:
        for pid in self.stopped():
            self.host1.run(["kill", "-CONT", str(pid)], check=False)

    def status(self, host: Host, name: str) -> str:
        answer = host.run(["migrate", "state", name], check=False)
        return str(json.loads(answer.stdout)["status"]) if answer.returncode == 0 else "absent"

    def where(self, name: str) -> list[str]:
        return [host.name for host in self.hosts if self.status(host, name) == "running"]

    def log(self, host: Host, name: str) -> list[str]:
        return read(host.folder(f"/srv/{name}/rootfs/log")).split("\n")[:-1]

    def must_run_on(self, name: str, *places: str) -> None:
        """Check that it runs on one of the hosts and nowhere else, and lost no tick."""
        (place,) = self.where(name)
        assert place in places, (name, place)
        (host,) = [each for each in self.hosts if each.name == place]
        before = len(self.log(host, name))
        eventually(lambda: len(self.log(host, name)) > before + 50, f"{name} goes on")
        lines = self.log(host, name)
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        for other in self.hosts:
            seen = self.log(other, name)
            assert seen == lines[: len(seen)]

    def remove(self) -> None:
        self.go_on()
        for host in self.hosts:
            for name in host.run(["migrate", "list", "-q"]).stdout.split():
                host.run(["migrate", "recover", name], check=False)
                host.run(["migrate", "delete", "--force", name], check=False)
            host.run(["sh", "-c", f"rm -rf {WIPED} /tmp/migrate-drain-*"])


@pytest.fixture
def herd(three: Site) -> Iterator[Herd]:
    """Containers to be drained, and nothing left of them on any host."""
    before = {host: leaks.of_host(host) for host in three.hosts.values()}
    made = Herd(three)
    try:
        yield made
    finally:
        made.remove()
    for host, state in before.items():
        left = leaks.left(state, lambda host=host: leaks.of_host(host))  # type: ignore[misc]
        assert not left, f"left on {host.name}: {left}"


def rows(done: CompletedProcess[str]) -> dict[str, list[str]]:
    """Return the summary's rows, each split at its columns."""
    heading, *lines = done.stdout.split("\n\n")[0].splitlines()
    starts = [heading.index(word) for word in heading.split()]
    ends = [*starts[1:], None]
    cells = [
        [line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines
    ]
    return {name: rest for name, *rest in cells}


def departed(done: CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return what the last JSON line says of each container."""
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "Drained"
    return {each["container"]: each for each in last["departed"]}


def test_everybody_moves_and_the_hosts_share_the_load(herd: Herd) -> None:
    herd.make((*HERD, "d"), memory=4)
    done = herd.drain()
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(done)
    assert sorted(found) == [*HERD, "d"]
    for name, (to, downtime, total, result) in found.items():
        herd.must_run_on(name, to)
        assert result == "moved"
        assert downtime.endswith(" ms")
        assert total.endswith(" s")
    assert sorted(to for to, *_ in found.values()) == ["host2", "host2", "host3", "host3"]
    assert "4 of 4 moved in " in done.stdout
    assert herd.host1.run(["migrate", "list", "-q"]).stdout == ""


def test_one_that_is_refused_stays_and_stops_nobody(herd: Herd) -> None:
    herd.make()
    for host in (herd.host2, herd.host3):
        host.folder("/srv/b").mkdir()
    done = herd.drain()
    assert done.returncode == 1
    to, downtime, _, result = rows(done)["b"]
    assert (to, downtime) == ("-", "-")
    assert result.startswith("refused: host2: bundle /srv/b is there already")
    assert "migrate check b" in result
    herd.must_run_on("b", "host1")
    for name in ("a", "c"):
        herd.must_run_on(name, "host2", "host3")
    assert "2 of 3 moved" in done.stdout


def test_one_that_only_one_host_would_take_goes_there(herd: Herd) -> None:
    herd.make()
    herd.host2.folder("/srv/b").mkdir()
    done = herd.drain()
    assert done.returncode == 0, done.stdout
    assert rows(done)["b"][0] == "host3"
    herd.must_run_on("b", "host3")


def test_one_that_fails_runs_on_and_stops_nobody(herd: Herd) -> None:
    herd.make()
    agent = herd.host2.folder(AGENT)
    agent.write_text(
        "#!/bin/sh\n"
        f"[ -e {AGENT}.asked ] && mkdir {AGENT}.failed 2>/dev/null "
        "&& export MIGRATE_FAULT=destination:after:VERIFIED:raise\n"
        f'touch {AGENT}.asked\nexec migrate "$@"\n'
    )
    agent.chmod(0o755)
    done = herd.drain("--parallel", "1", "--remote-command", AGENT, to="host2")
    assert done.returncode == 1
    found = rows(done)
    (name,) = [name for name in HERD if found[name][3] != "moved"]
    assert found[name][3].startswith("failed: ")
    assert "fault on purpose" in found[name][3]
    assert "it runs on here" in found[name][3]
    for each in HERD:
        herd.must_run_on(each, "host1" if each == name else "host2")


def test_one_whose_migration_is_killed_is_named_and_stops_nobody(herd: Herd) -> None:
    herd.make()
    with herd.stopped_at("source:after:COPYING:stop", 2) as drain:
        first, *_ = herd.stopped()
        herd.host1.run(["kill", "-KILL", str(first)])
        herd.go_on()
        eventually(lambda: len(herd.stopped()) == 1, "the next one begins")
        herd.go_on()
        assert drain.wait() == 1
    assert "2 of 3 moved" in herd.said()
    summary = herd.said()[herd.said().index("CONTAINER") :]
    (line,) = [line for line in summary.splitlines() if "ended by SIGKILL" in line]
    name = line.split()[0]
    assert f"migrate recover {name}" in line
    herd.host1.run(["migrate", "recover", name])
    herd.must_run_on(name, "host1")


def test_a_program_gets_an_object_a_line(herd: Herd) -> None:
    herd.make(("a", "b"))
    herd.host1.run(["migrate", "pause", "b"])
    done = herd.drain("--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["event"] for each in events} >= {"Placed", "Relayed", "Departed", "Drained"}
    phases = [
        each["happened"]["phase"]
        for each in events
        if each["event"] == "Relayed"
        and each["container"] == "a"
        and each["happened"]["event"] == "PhaseEntered"
    ]
    assert phases[-1] == "DONE"
    found = departed(done)
    assert {each["result"] for each in found.values()} == {"moved"}
    assert found["a"]["downtime_seconds"] < found["a"]["total_seconds"]
    statuses = [herd.status(host, "b") for host in herd.hosts]
    assert sorted(statuses) == ["absent", "absent", "paused"]


def test_what_does_not_run_stays(herd: Herd) -> None:
    herd.make(("a", "b"))
    herd.host1.run(["migrate", "kill", "b", "KILL"])
    eventually(lambda: herd.status(herd.host1, "b") == "stopped", "it ends")
    done = herd.drain()
    assert done.returncode == 0
    assert "b stays: it is stopped" in done.stderr
    assert list(rows(done)) == ["a"]
    again = herd.drain()
    assert (again.returncode, again.stdout) == (0, "nothing runs here\n")


def test_a_host_that_cannot_be_reached_takes_none(herd: Herd) -> None:
    herd.make(("a",))
    done = herd.drain(to="nowhere.invalid,host3")
    assert done.returncode == 0, done.stderr
    assert "warning: nowhere.invalid takes none: " in done.stderr
    herd.must_run_on("a", "host3")


@pytest.mark.parametrize("transport", ["", "openssh", "paramiko"])
def test_all_that_go_to_a_host_share_a_connection_of_the_ssh_program(
    herd: Herd, transport: str
) -> None:
    herd.make()
    agent = herd.host2.folder(AGENT)
    agent.write_text(
        f'#!/bin/sh\necho "$SSH_CONNECTION" >>{AGENT}.connections\nexec migrate "$@"\n'
    )
    agent.chmod(0o755)
    words = ["--transport", transport] if transport else []
    assert herd.drain("--remote-command", AGENT, *words, to="host2").returncode == 0
    connections = read(herd.host2.folder(f"{AGENT}.connections")).splitlines()
    assert len(connections) == 1 + len(HERD)
    assert len(set(connections)) == (len(connections) if transport == "paramiko" else 1)
    for name in HERD:
        herd.must_run_on(name, "host2")


def test_each_is_told_how_to_move(herd: Herd) -> None:
    herd.make(("a",))
    done = herd.drain("--json", "--strategy", "stop-copy")
    assert done.returncode == 0
    (report,) = [
        each["happened"]["report"]
        for each in map(json.loads, done.stdout.splitlines())
        if each["event"] == "Relayed" and each["happened"]["event"] == "Report"
    ]
    assert report["strategy"] == "stop-copy"


def test_what_is_called_otherwise_is_said_to_those_it_concerns(herd: Herd) -> None:
    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/data", "source": "/srv/shared", "options": ["bind"]}
        )

    herd.host1.folder("/srv/shared").mkdir()
    herd.host1.folder("/srv/shared/file").write_text("content")
    herd.make(("a",), change=change)
    herd.make(("b",))
    alone = herd.drain("--json", to="host2")
    found = departed(alone)
    assert (found["a"]["result"], found["b"]["result"]) == ("refused", "moved")
    wrong = herd.drain("--volume", "/dota=sync", to="host2")
    assert wrong.returncode == 1
    assert "no container has the volume, or is on the bridge, /dota" in wrong.stderr
    done = herd.drain("--volume", "/data=sync", to="host3")
    assert done.returncode == 0, done.stdout + done.stderr
    herd.must_run_on("a", "host3")
    assert read(herd.host3.folder("/srv/shared/file")) == "content"


def test_without_any_host_nothing_is_touched(herd: Herd) -> None:
    herd.make(("a",))
    done = herd.drain(to="nowhere.invalid")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no host can be asked: nowhere.invalid" in done.stderr
    herd.must_run_on("a", "host1")


# --- interrupted ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_their_commit_those_under_way_roll_back_and_nothing_more_begins(
    herd: Herd, number: signal.Signals
) -> None:
    herd.make()
    with herd.stopped_at("source:after:COPYING:stop", 2, "--parallel", "2") as drain:
        drain.signal(number)
        herd.go_on()
        assert drain.wait() == 1
    said = herd.said()
    assert said.count("  interrupted: interrupted by " + number.name) == 2
    assert said.count("  not begun: interrupted; it runs on here") == 1
    assert "0 of 3 moved" in said
    for name in HERD:
        herd.must_run_on(name, "host1")


def test_behind_their_commit_they_are_finished_and_nothing_more_begins(herd: Herd) -> None:
    herd.make()
    with herd.stopped_at("source:after:COMMITTED:stop", 2, "--parallel", "2") as drain:
        drain.signal(signal.SIGINT)
        drain.signal(signal.SIGINT)
        herd.go_on()
        assert drain.wait() == 1
    assert "2 of 3 moved" in herd.said()
    assert herd.said().count("  not begun: ") == 1
    places = sorted(place for name in HERD for place in herd.where(name))
    assert places[0] == "host1"
    assert "host1" not in places[1:]
    for name in HERD:
        herd.must_run_on(name, "host1", "host2", "host3")


def test_when_nobody_reads_it_any_more_it_ends_cleanly(herd: Herd) -> None:
    herd.make()
    done = herd.host1.run(
        ["sh", "-c", f"migrate drain --to {BOTH} --json --parallel 1 | head -1"], check=False
    )
    assert json.loads(done.stdout)["event"] == "Placed"
    for name in HERD:
        herd.must_run_on(name, "host1", "host2", "host3")
