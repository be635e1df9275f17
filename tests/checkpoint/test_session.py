"""The conversation with CRIU: what it is started with, and how it may end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate.checkpoint.session import Notification, RequestFailed, Session
from migrate.checkpoint.version import OLDEST, require, version
from migrate.errors import CriuError


def program(tmp_path: Path, text: str) -> str:
    """Return a program that stands in CRIU's place."""
    path = tmp_path / "criu"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def failure(criu: str) -> RequestFailed:
    """Return how a request to a program that is no CRIU fails."""
    with Session(criu) as session, pytest.raises(RequestFailed) as caught:
        session.request("VERSION")
    return caught.value


@pytest.mark.criu
def test_a_criu_says_its_version_and_features(criu: str) -> None:
    found = version(criu)
    assert found.number >= OLDEST
    assert str(found).startswith("4.")


@pytest.mark.criu
def test_one_conversation_takes_several_questions(criu: str) -> None:
    with Session(criu) as session:
        assert require(session) == require(session) == str(version(criu))


def test_a_wrong_criu_is_quoted(tmp_path: Path) -> None:
    error = failure(program(tmp_path, "echo I am no criu >&2; exit 3"))
    assert error.message == "criu exited with status 3 without an answer: I am no criu"


def test_a_criu_that_crashes_is_told_by_its_signal(tmp_path: Path) -> None:
    error = failure(program(tmp_path, "kill -SEGV $$"))
    assert error.message == "criu was killed by signal 11 without an answer"


def test_a_criu_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(CriuError, match="none cannot be started: No such file"):
        Session(str(tmp_path / "none"))


@pytest.mark.criu
def test_a_criu_that_is_too_old_is_refused(criu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.checkpoint.version.OLDEST", (99, 0, 0))
    with Session(criu) as session, pytest.raises(CriuError, match=r"99\.0\.0 or newer is needed"):
        require(session)


def test_it_gets_a_clean_environment_and_only_its_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRIU_CONFIG_FILE", "/evil")
    leaked = os.open("/dev/full", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    wanted = os.open("/dev/zero", os.O_RDONLY)
    seen = tmp_path / "seen"
    criu = program(tmp_path, f"{{ env; pwd; ls -l /proc/$$/fd; }} > {seen}")
    with Session(criu, pass_fds=[wanted]) as session, pytest.raises(RequestFailed):
        session.request("VERSION")
    os.close(leaked)
    os.close(wanted)
    text = seen.read_text()
    assert "CRIU_CONFIG_FILE" not in text
    assert "HOME=/root" in text
    assert "\n/\n" in text
    links = {line.split()[-3]: line.split()[-1] for line in text.splitlines() if "->" in line}
    assert links[str(wanted)] == "/dev/zero"
    assert "/dev/full" not in links.values()


def test_a_descriptor_that_is_taken_is_the_handlers() -> None:
    reading, writing = os.pipe()
    notification = Notification("orphan-pts-master", descriptors=[reading, writing])
    assert notification.take() == reading
    assert notification.descriptors == [writing]
    os.close(reading)
    os.close(writing)
