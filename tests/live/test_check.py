"""`migrate check` between two hosts: what it says, and that it touches nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.live.moving import ADDRESS, BUNDLE, ID, Moved
from tests.support.bundle import make_bundle
from tests.support.hosts import Site

MAC = "02:00:00:00:00:99"


def check(container: Moved, *words: str) -> CompletedProcess[str]:
    return container.host1.run(["migrate", "check", *words], check=False)


def events(done: CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_container_that_could_move_is_said_to_and_stays(container: Moved) -> None:
    done = check(container, ID, "--to", "host2")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(f"{ID} can move to host2: 0 refused, ")
    assert f"ok       network     address {ADDRESS} is free on host2" in lines
    assert any("wall clocks differ by" in line for line in lines)
    container.must_run_on("host1")
    assert not container.host2.folder(BUNDLE).exists()


def test_what_is_refused_comes_last_with_its_way_out(container: Moved) -> None:
    other = container.host2
    make_bundle(other.folder("/srv/other"))
    other.run_detached(["migrate", "run", "-d", "--bundle", "/srv/other", ID])
    done = check(container, ID, "--to", "host2")
    other.run(["migrate", "delete", "--force", ID])
    assert done.returncode == 3
    *_, refusal, hint, empty, last = done.stdout.splitlines()
    assert refusal.startswith("refused  id          ")
    assert refusal.endswith("already exists on host2")
    assert hint.strip() == f"Run `migrate delete {ID}` there first."
    assert (empty, last) == ("", last)
    assert last.startswith(f"{ID} cannot move to host2: 1 refused")
    container.must_run_on("host1")


def test_a_program_gets_the_findings_and_their_sum(container: Moved) -> None:
    found = events(check(container, ID, "--to", "host2", "--json"))
    *findings, last = found
    assert {each["event"] for each in findings} == {"Finding"}
    assert {each["host"] for each in findings} == {"", "host2"}
    assert all(each["hint"] for each in findings if each["verdict"] != "ok")
    assert last["event"] == "Checked"
    assert (last["container"], last["source"], last["destination"]) == (ID, "host1", "host2")
    assert last["refusals"] == 0


def test_the_machines_alone_are_compared(hosts: Site) -> None:
    done = hosts.host1.run(["migrate", "check", "--to", "host2"])
    assert "containers can move from host1 to host2: 0 refused" in done.stdout
    for words in ("host1: CRIU", "host2: CRIU", "host2: bridges: br0", "the processor of host2"):
        assert words in done.stdout
    assert "disk for it" not in done.stdout


def test_this_machine_alone_is_judged(hosts: Site) -> None:
    done = hosts.host1.run(["migrate", "check"])
    assert "host1 can send and receive containers: 0 refused" in done.stdout
    broken = hosts.host1.run(["migrate", "--criu", "/nowhere", "check"], check=False)
    assert broken.returncode == 3
    assert "refused  criu" in broken.stdout
    assert broken.stdout.splitlines()[-1].startswith("host1 cannot send and receive containers")


def test_a_container_alone_is_looked_at_where_it_is(container: Moved) -> None:
    done = check(container, ID)
    assert done.returncode == 0
    assert "everything of the container can follow" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{ID} can move: 0 refused")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody"], "does not exist"),
        ([ID, "--to", "nowhere.invalid"], "nowhere.invalid"),
        ([ID, "--to", "host2", "--bridge", "br9=br0"], "no link of the container is on bridge br9"),
        ([ID, "--bridge", "br9"], "invalid value for --bridge"),
        (["one", "two"], "requires at most 1 argument"),
    ],
)
def test_a_check_that_cannot_be_made_is_one_line(
    container: Moved, words: list[str], said: str
) -> None:
    done = check(container, *words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_stopped_container_is_not_looked_at(container: Moved) -> None:
    container.host1.run(["migrate", "kill", ID, "KILL"])
    done = check(container, ID, "--to", "host2")
    assert done.returncode == 1
    assert "only a running or paused one moves" in done.stderr


# --- the network over there ---


@contextmanager
def network_over_there(container: Moved, name: str, address: str) -> Iterator[None]:
    """Give host2 a further namespace on its bridge.

    The bridge may take the new port's hardware address for its own, and give it back.
    """
    forget = ["ip", "neighbour", "flush", "all"]
    container.host2.add_network(name, address)
    container.host1.run(forget)
    yield
    container.host2.remove_network(name)
    container.host1.run(forget)


@pytest.fixture
def squatter(container: Moved) -> Iterator[Moved]:
    """Somebody on host2's bridge who has the container's addresses, too."""
    container.host1.run(
        ["ip", "netns", "exec", ID, "ip", "address", "add", "fd77::50/64", "dev", "eth0", "nodad"]
    )
    with network_over_there(container, "squatter", ADDRESS):
        container.host2.run(
            ["ip", "-netns", "squatter", "-batch", "-"],
            text_in=f"link set eth0 address {MAC}\naddress add fd77::50/64 dev eth0 nodad\n",
        )
        yield container


def uses(done: CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if "is in use on bridge" in line]


def test_addresses_that_somebody_has_over_there_are_refused(squatter: Moved) -> None:
    host = squatter.host1
    host.run(["ip", "link", "set", f"v-{ID}", "down"])
    done = check(squatter, ID, "--to", "host2")
    host.run(["ip", "link", "set", f"v-{ID}", "up"])
    assert done.returncode == 3
    found = uses(done)
    assert [line.split()[0] for line in found] == ["refused", "refused"]
    for line, address in zip(found, (ADDRESS, "fd77::50"), strict=True):
        assert f"address {address} of the container is in use on bridge br0 of host2" in line
        assert line.endswith(f"by {MAC}")


def test_where_the_container_is_heard_there_too_it_lives_with_it(squatter: Moved) -> None:
    done = check(squatter, ID, "--to", "host2")
    assert done.returncode == 0
    assert {line.split()[0] for line in uses(done)} == {"note"}


def test_a_namespace_in_use_over_there_is_refused(container: Moved) -> None:
    with network_over_there(container, ID, "10.77.0.51"):
        done = check(container, ID, "--to", "host2")
    assert done.returncode == 3
    assert f"namespace /run/netns/{ID} on the destination is in use: it has eth0" in done.stdout


# --- clocks ---


def test_clocks_are_measured_over_the_link(hosts: Site) -> None:
    agent = hosts.host2.folder("/srv/agent")
    agent.write_text(
        '#!/bin/sh\nexec unshare --time --fork --monotonic 864000 --boottime 600 -- migrate "$@"\n'
    )
    agent.chmod(0o755)
    words = ["migrate", "check", "--to", "host2", "--remote-command", "/srv/agent"]
    said = hosts.host1.run(words).stdout
    agent.unlink()
    assert "CLOCK_MONOTONIC of host2 is 10.0 days ahead" in said
    assert "CLOCK_BOOTTIME of host2 is 10.0 minutes ahead" in said
    assert "the wall clocks differ by" in said


def test_a_container_keeps_its_clocks_where_it_gets_a_time_namespace(container: Moved) -> None:
    done = check(container, ID, "--to", "host2")
    assert "the container's monotonic clocks go on, in a time namespace of its own" in done.stdout
