"""`live.journal`: what was decided is still there after a cut at every byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import Locked, MigrationError, Undecided
from migrate.live.journal import (
    FILE,
    ROOM_BYTES,
    Journal,
    default_folder,
    driver_of,
    folder_of,
)
from migrate.live.phases import SOURCE_NEXT, Phase
from migrate.live.records import Record, encode, replay


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return folder_of(str(tmp_path), "source", "/run/migrate", "web")


def committed(folder: str) -> Journal:
    journal = Journal.create("source", folder)
    journal.intend(Phase.PREPARED, target="root@b", container_id="web")
    journal.enter(Phase.PREPARED)
    journal.enter(Phase.COPYING)
    journal.intend(Phase.FROZEN)
    journal.enter(Phase.FROZEN, durable=False)
    journal.intend(Phase.SENT, durable=False)
    journal.enter(Phase.SENT, durable=False)
    journal.enter(Phase.COMMITTED)
    return journal


def content_of(folder: str) -> bytes:
    return Path(folder, FILE).read_bytes().rstrip(b"\0")


@st.composite
def journals(draw: st.DrawFn) -> bytes:
    """A journal that goes some allowed way through the source's phases."""
    content, sum_before, sequence = b"", "", 0
    reached: Phase | None = None
    for _ in range(draw(st.integers(0, 7))):
        following = sorted(SOURCE_NEXT[reached], key=lambda phase: phase.value)
        if not following:
            break
        phase = draw(st.sampled_from(following))
        facts: dict[str, Any] = draw(
            st.dictionaries(st.text(max_size=5), st.text(max_size=12) | st.integers(), max_size=3)
        )
        for kind in ("intent", "result") if draw(st.booleans()) else ("result",):
            line = encode(
                Record(sequence, kind, phase, 1.5, "boot", 7, 9, facts),
                sum_before,
            )
            content += line
            sum_before = line[-19:-3].decode()
            sequence += 1
        reached = phase
    return content


@given(content=journals(), zeros=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cut_at_every_byte_leaves_the_whole_lines_before_it(
    content: bytes, *, zeros: bool
) -> None:
    whole, _, _ = replay("source", content)
    for cut in range(len(content) + 1):
        tail = bytes(len(content) - cut) if zeros else b""
        records, end, _ = replay("source", content[:cut] + tail)
        assert records == whole[: content[:cut].count(b"\n")]
        assert end == content[:cut].rfind(b"\n") + 1


@given(content=journals().filter(bool), data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_changed_byte_is_never_read_as_another_decision(
    content: bytes, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(1, 255).filter(lambda value: value != content[position]))
    changed = content[:position] + bytes([value]) + content[position + 1 :] + bytes(64)
    with pytest.raises(Undecided):
        replay("source", changed)


@given(content=journals(), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_lost_doubled_or_exchanged_line_is_reported(content: bytes, data: st.DataObject) -> None:
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return
    index = data.draw(st.integers(0, len(lines) - 2))
    for changed in (
        lines[:index] + lines[index + 1 :],
        [*lines[: index + 1], *lines[index:]],
        [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]],
    ):
        with pytest.raises(Undecided):
            replay("source", b"".join(changed))


def test_what_was_written_is_read_back_with_its_facts(folder: str) -> None:
    with committed(folder) as journal:
        assert journal.reached is Phase.COMMITTED
    with Journal.open("source", folder) as journal:
        assert journal.reached is Phase.COMMITTED
        assert journal.pending is None
        assert journal.fact("target") == "root@b"
        assert journal.fact("nothing") is None
        assert journal.same_boot
        journal.intend(Phase.DONE, confirmed=True)
        assert [journal.pending] == [Phase.DONE]
        journal.remove()
    assert not os.path.exists(folder)


def test_a_phase_out_of_turn_is_refused_and_nothing_is_written(folder: str) -> None:
    with committed(folder) as journal:
        before = content_of(folder)
        with pytest.raises(MigrationError, match="COPYING cannot follow COMMITTED"):
            journal.intend(Phase.COPYING)
        assert content_of(folder) == before


def test_a_rollback_that_was_intended_leads_nowhere_else(folder: str) -> None:
    with Journal.create("source", folder) as journal:
        journal.enter(Phase.PREPARED)
        journal.intend(Phase.COPYING)
        journal.intend(Phase.ROLLED_BACK)
        with pytest.raises(MigrationError):
            journal.enter(Phase.COPYING)
        journal.enter(Phase.ROLLED_BACK)


def test_a_torn_last_line_is_dropped_and_written_over(folder: str) -> None:
    committed(folder).close()
    path = Path(folder, FILE)
    lines = content_of(folder).splitlines(keepends=True)
    torn = b"".join(lines[:-1]) + lines[-1][:-7]
    path.write_bytes(torn + bytes(ROOM_BYTES - len(torn)))
    with Journal.open("source", folder) as journal:
        assert journal.reached is Phase.SENT
        journal.intend(Phase.ROLLED_BACK)
        journal.enter(Phase.ROLLED_BACK)
    with Journal.open("source", folder) as journal:
        assert journal.reached is Phase.ROLLED_BACK
    assert b"COMMITTED" not in content_of(folder)


def test_a_second_migration_of_the_container_is_refused(folder: str) -> None:
    with committed(folder), pytest.raises(Locked, match=rf"migrated by pid {os.getpid()}"):
        Journal.create("source", folder)
    assert driver_of(folder) == os.getpid()


def test_an_interrupted_migration_points_to_recover(folder: str) -> None:
    script = (
        "import sys, os; from migrate.live.journal import Journal; "
        "from migrate.live.phases import Phase; "
        "Journal.create('source', sys.argv[1]).enter(Phase.PREPARED)"
    )
    subprocess.run([sys.executable, "-c", script, folder], check=True)
    with pytest.raises(Locked, match="interrupted") as caught:
        Journal.create("source", folder)
    assert caught.value.hint == "Run `migrate recover web`."


def test_whoever_waited_for_a_journal_that_was_removed_finds_none(folder: str) -> None:
    journal = committed(folder)
    journal.remove()
    with pytest.raises(FileNotFoundError):
        Journal.open("source", folder)


def test_ids_of_two_roots_and_overlong_ids_do_not_meet() -> None:
    folders = {
        folder_of("/j", side, root, name)
        for side in ("source", "destination")
        for root in ("/run/migrate", "/run/other")
        for name in ("a" * 300, "a" * 301)
    }
    assert len(folders) == 8
    assert all(len(os.path.basename(folder)) < 255 for folder in folders)


def test_a_full_disk_stops_no_decision(small_disk: str) -> None:
    """The room for the records is taken when the journal is made."""
    folder = folder_of(small_disk, "source", "/run/migrate", "web")
    with Journal.create("source", folder) as journal:
        journal.enter(Phase.PREPARED)
        fill(f"{small_disk}/filler")
        journal.intend(Phase.ROLLED_BACK)
        journal.enter(Phase.ROLLED_BACK)
    with Journal.open("source", folder) as journal:
        assert journal.reached is Phase.ROLLED_BACK


def test_a_journal_that_finds_no_room_is_refused_and_leaves_nothing(small_disk: str) -> None:
    fill(f"{small_disk}/filler")
    folder = folder_of(small_disk, "source", "/run/migrate", "web")
    with pytest.raises(MigrationError, match="no space left") as caught:
        Journal.create("source", folder)
    assert "--journal-dir" in caught.value.hint
    assert not os.path.exists(folder)


def fill(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], check=True)
    try:
        yield str(path)
    finally:
        subprocess.run(["umount", path], check=True)


FAULTED = (
    "import sys; from migrate.live.journal import Journal; from migrate.live.phases import Phase\n"
    "journal = Journal.create('source', sys.argv[1])\n"
    "journal.intend(Phase.PREPARED)\n"
    "journal.enter(Phase.PREPARED)\n"
)


@pytest.mark.parametrize(
    ("fault", "records"),
    [
        ("source:before:intent.PREPARED:kill", 0),
        ("source:after:intent.PREPARED:kill", 1),
        ("source:before:PREPARED:kill", 1),
        ("source:after:PREPARED:kill", 2),
    ],
)
def test_a_fault_strikes_before_or_after_its_record(folder: str, fault: str, records: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FAULTED, folder],
        check=False,
        env={**os.environ, "MIGRATE_FAULT": fault},
    )
    assert run.returncode == -signal.SIGKILL
    with Journal.open("source", folder) as journal:
        assert len(journal.records) == records


def test_a_fault_of_the_other_side_or_record_does_nothing(folder: str) -> None:
    fault = "destination:before:PREPARED:kill,source:after:DONE:kill"
    subprocess.run(
        [sys.executable, "-c", FAULTED, folder],
        env={**os.environ, "MIGRATE_FAULT": fault},
        check=True,
    )


def test_a_fault_that_cannot_be_read_says_how_to_write_it(folder: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FAULTED, folder],
        check=False,
        env={**os.environ, "MIGRATE_FAULT": "source:COMMITTED"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "SIDE:WHEN:RECORD:HOW" in run.stderr


def test_the_folder_is_the_option_then_the_variable_then_the_usual_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIGRATE_JOURNAL", "/b")
    assert default_folder("/a") == "/a"
    assert default_folder(None) == "/b"
    monkeypatch.delenv("MIGRATE_JOURNAL")
    if os.geteuid() == 0:
        assert default_folder(None) == "/var/lib/migrate"
