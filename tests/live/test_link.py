"""A link that goes at each phase, for a moment or for good."""

from __future__ import annotations

import time

import pytest

from tests.live.moving import ID, Moved, eventually, read, stopped

# Where the link is cut, and where the container is afterwards.
BEFORE_COMMIT = [
    "source:after:PREPARED",
    "source:after:COPYING",
    "source:after:FROZEN",
    "destination:after:RESERVED",
    "destination:after:RECEIVING",
    "destination:after:VERIFIED",
    "destination:after:HELD",
]
AFTER_COMMIT = [
    "source:after:COMMITTED",
    "destination:before:COMMITTED",
    "destination:after:COMMITTED",
    "destination:after:ACTIVE",
]


def end_session(container: Moved) -> None:
    """Kill the sshd that serves the link, as a router that forgets it would."""
    found = container.host2.run(["pgrep", "-f", "sshd: root@notty"], check=False).stdout.split()
    container.host2.run(["kill", "-KILL", *found])


@pytest.mark.parametrize("place", [*BEFORE_COMMIT, *AFTER_COMMIT])
def test_the_link_breaks(container: Moved, place: str) -> None:
    with container.stopped_at(f"{place}:stop") as source:
        end_session(container)
        container.go_on()
        assert source.wait() == (1 if place in BEFORE_COMMIT else 0), output(container)
    container.must_run_on("host1" if place in BEFORE_COMMIT else "host2")


def test_the_link_breaks_between_the_last_word_and_the_commit(container: Moved) -> None:
    """Whether it is noticed in time or not, there is one end."""
    with container.stopped_at("source:after:SENT:stop") as source:
        end_session(container)
        container.go_on()
        status = source.wait()
    container.must_run_on("host1" if status else "host2")


@pytest.mark.parametrize("place", BEFORE_COMMIT)
def test_the_link_is_cut_for_good_before_the_commit(container: Moved, place: str) -> None:
    """The source goes on by itself; the destination gives up, or holds and waits."""
    with container.stopped_at(f"{place}:stop") as source:
        container.cut_off()
        container.go_on()
        assert source.wait() == 1, output(container)
    assert container.where() == ["host1"]
    if place == "destination:after:HELD":
        assert "recover" in output(container)
    container.reconnect()
    container.recover()
    eventually(lambda: not container.leftovers(), container.describe())
    container.must_run_on("host1")


@pytest.mark.parametrize("place", AFTER_COMMIT)
def test_the_link_is_cut_for_good_after_the_commit(container: Moved, place: str) -> None:
    """Neither side guesses: the tool is killed while it tries; recover finishes."""
    with container.stopped_at(f"{place}:stop") as source:
        container.cut_off()
        container.go_on()
        eventually(lambda: "asking again" in output(container), "it tries again", 20)
        source.kill()
    assert "host1" not in container.where()
    undecided = container.recover(check=False)
    assert undecided.returncode == 4, undecided.stderr
    assert f"migrate recover {ID}" in undecided.stderr
    container.reconnect()
    container.recover()
    container.must_run_on("host2")


def test_a_held_destination_waits_without_a_port_and_without_a_processor(
    container: Moved,
) -> None:
    with container.stopped_at("destination:after:HELD:stop") as source:
        container.cut_off()
        container.go_on()
        assert source.wait() == 1
    held = container.host2.run(["pgrep", "-f", "migrate agent"]).stdout.split()
    assert held
    here = container.recover(container.host2, check=False)
    assert here.returncode == 4
    assert "on the host it came from" in here.stderr
    assert not stopped(container.host2)
    before = [container.host2.folder(f"/proc/{pid}/stat").read_text() for pid in held]
    time.sleep(0.5)
    after = [container.host2.folder(f"/proc/{pid}/stat").read_text() for pid in held]
    for old, new in zip(before, after, strict=True):
        assert old.split()[13:15] == new.split()[13:15]
    container.reconnect()
    container.recover()
    container.must_run_on("host1")


def output(container: Moved) -> str:
    return read(container.host1.folder("/srv/output"))
