"""`migrate live --strategy pre-copy`: memory that goes while the container runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint import procfs
from tests.live.moving import BUNDLE, ID, Moved, Where, eventually, moved, pause_a_moment, read
from tests.live.subject import Subject, subject
from tests.support.hosts import Host, Site
from tests.support.payload import Status
from tests.support.processes import Process

PRE_COPY = ("--strategy", "pre-copy")
USERFAULTFD = "anon_inode:[userfaultfd]"
MEMORY = ["--memory", "24", "--mix", "mixed", "--dirty", "10"]
# So much that a pass takes a while.
MUCH_MEMORY = ["--memory", "250", "--mix", "random", "--dirty", "50"]


@pytest.fixture
def unmade(hosts: Site) -> Iterator[Moved]:
    """A container that the test makes as it needs it."""
    with moved(hosts) as container:
        yield container


@pytest.fixture
def container(unmade: Moved) -> Moved:
    """One with memory that it writes to."""
    unmade.create(MEMORY)
    return unmade


def must_be_whole(container: Moved, name: Where) -> None:
    """Check every promise of a migration, and every page of its memory."""
    container.must_run_on(name)
    host = container.host1 if name == "host1" else container.host2
    status = host.folder(f"{BUNDLE}/rootfs/status")
    host.run(["migrate", "kill", ID, "USR2"])
    eventually(lambda: verdict(status) not in ("", "none"), "memory is checked", 20)
    assert verdict(status) == "intact"
    must_be_unwatched(host)


def verdict(path: Path) -> str:
    status = Status.read(path)
    return status.memory if status else ""


def pids(host: Host) -> list[int]:
    """Return the pids here of the container's processes."""
    first = json.loads(host.run(["migrate", "state", ID]).stdout)["pid"]
    outer = next(pid for pid in host.nest.processes() if procfs.numbers(pid)[-2:-1] == [first])
    return procfs.tree(outer)


def must_be_unwatched(host: Host) -> None:
    """Check that no process of it has a userfaultfd, or memory that one watches."""
    for pid in pids(host):
        assert USERFAULTFD not in links(pid)
        flags = [
            line
            for line in Path(f"/proc/{pid}/smaps").read_text().splitlines()
            if line.startswith("VmFlags:")
        ]
        assert flags
        assert not [line for line in flags if {"um", "uw", "ui"} & set(line.split())]


def links(pid: int) -> list[str]:
    """Return what the descriptors of a process are."""
    try:
        return [file.link for file in procfs.open_files(pid)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_memory_that_never_rests_arrives_as_it_was_and_comes_back(container: Moved) -> None:
    done = container.live(*PRE_COPY, "--json")
    must_be_whole(container, "host2")
    again = container.host2.run(["migrate", "live", ID, "--to", "host1", "--json"])
    must_be_whole(container, "host1")
    for each in (done, again):
        report = json.loads(each.stdout.splitlines()[-1])["report"]
        assert report["strategy"] == "pre-copy"  # also where nobody has asked for it
        assert report["bytes"]["memory"]["raw"] > 16 << 20


def test_a_paused_container_arrives_paused_and_whole(container: Moved) -> None:
    container.host1.run(["migrate", "pause", ID])
    written = container.log(container.host1)
    container.live(*PRE_COPY)
    assert container.status(container.host2) == "paused"
    pause_a_moment()
    assert container.log(container.host2) == written, "it took a step"
    container.host2.run(["migrate", "resume", ID])
    must_be_whole(container, "host2")


# --- several processes ---


@pytest.fixture
def family(hosts: Site) -> Iterator[Subject]:
    """A running container of family.c."""
    with subject(hosts) as made:
        made.make(["/family", "24"])
        flags = ["-O2", "-static", "-Wall", "-Wextra", "-Werror"]
        source = Path(__file__).with_name("family.c")
        subprocess.run(["gcc", *flags, "-o", made.file("family"), source], check=True)
        made.start()
        made.wait_for("ready")
        yield made


def must_be_a_whole_family(family: Subject, host: Host) -> None:
    family.file("check", host).touch()
    said = [family.wait_for(f"verdict-{member}", host) for member in range(4)]
    assert said == ["ok"] * 4


def test_processes_that_share_memory_until_they_write_arrive_whole(family: Subject) -> None:
    """Some of them born just before all stands still; beside that, all kinds of memory."""
    family.live(*PRE_COPY)
    family.must_have_moved()
    must_be_a_whole_family(family, family.host2)


def test_they_are_whole_where_it_was_given_up(family: Subject) -> None:
    failed = family.host1.run(
        ["migrate", "live", "subject", "--to", "host2", *PRE_COPY],
        env={"MIGRATE_FAULT": "source:before:SENT:raise"},
        check=False,
    )
    assert failed.returncode == 1
    assert "it runs on here" in failed.stderr
    must_be_a_whole_family(family, family.host1)


# --- what comes between ---

SOURCE_DIES: list[tuple[str, Where]] = [
    ("after:intent.COPYING", "host1"),
    ("before:COPYING", "host1"),
    ("after:FROZEN", "host1"),
    ("before:COMMITTED", "host1"),
    ("after:COMMITTED", "host2"),
]
AGENT_DIES: list[tuple[str, Where]] = [
    ("after:RECEIVING", "host1"),
    ("after:VERIFIED", "host1"),
    ("after:HELD", "host1"),
    ("after:ACTIVE", "host2"),
]


@pytest.mark.parametrize(("place", "where"), SOURCE_DIES)
def test_the_source_killed(container: Moved, place: str, where: Where) -> None:
    killed = container.live(*PRE_COPY, fault=f"source:{place}:kill", check=False)
    assert killed.returncode == -signal.SIGKILL
    container.recover()
    must_be_whole(container, where)


@pytest.mark.parametrize(("place", "where"), AGENT_DIES)
def test_the_agent_killed(container: Moved, place: str, where: Where) -> None:
    done = container.live(*PRE_COPY, fault=f"destination:{place}:kill", check=False)
    assert done.returncode == (1 if where == "host1" else 0), done.stderr
    container.recover()
    must_be_whole(container, where)


@pytest.fixture
def passing(unmade: Moved) -> Iterator[tuple[Moved, Process]]:
    """A container with much memory, some of which is over there, and the tool at work."""
    unmade.create(MUCH_MEMORY)
    output = unmade.host1.folder("/srv/output")
    command = ["migrate", "live", ID, "--to", "host2", *PRE_COPY]
    with (
        open(output, "wb") as file,
        unmade.host1.popen(command, stdout=file, stderr=file) as process,
    ):
        eventually(lambda: USERFAULTFD in links(process.pid), f"it is watched: {read(output)}")
        yield unmade, process


def test_the_tool_killed_during_a_pass(passing: tuple[Moved, Process]) -> None:
    container, tool = passing
    tool.kill()
    container.recover()
    must_be_whole(container, "host1")


def test_a_signal_during_a_pass(passing: tuple[Moved, Process]) -> None:
    container, tool = passing
    tool.signal(signal.SIGTERM)
    assert tool.wait() == 1
    said = read(container.host1.folder("/srv/output"))
    assert "SIGTERM" in said
    assert "it runs on here" in said
    must_be_whole(container, "host1")


def test_the_agent_killed_during_a_pass(passing: tuple[Moved, Process]) -> None:
    container, tool = passing
    agents = container.host2.run(["pgrep", "-f", "migrate agent"]).stdout.split()
    container.host2.run(["kill", "-KILL", *agents])
    assert tool.wait() == 1
    assert "it runs on here" in read(container.host1.folder("/srv/output"))
    container.recover(check=False)
    must_be_whole(container, "host1")


def test_the_link_cut_during_a_pass(passing: tuple[Moved, Process]) -> None:
    container, tool = passing
    container.cut_off()
    assert tool.wait() == 1
    assert container.where() == ["host1"]
    container.reconnect()
    container.recover(check=False)
    eventually(lambda: not container.leftovers(), "nothing is left", 20)
    must_be_whole(container, "host1")


def test_a_process_killed_during_a_pass_ends_it_in_plain_words(
    passing: tuple[Moved, Process],
) -> None:
    container, tool = passing
    for pid in pids(container.host1):
        os.kill(pid, signal.SIGKILL)
    assert tool.wait() == 1
    said = read(container.host1.folder("/srv/output"))
    assert "ended while it was being migrated" in said
    assert "unexpected" not in said
    assert container.status(container.host2) == "absent"
    assert not container.leftovers()
