"""Which CRIU is taken, and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate.checkpoint import locate
from migrate.errors import CriuError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable named criu, in no PATH."""
    monkeypatch.delenv("MIGRATE_CRIU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(locate, "_prefix", lambda: str(tmp_path / "prefix" / "criu"))
    path = tmp_path / "mine" / "criu"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def copied(program: Path, folder: Path) -> str:
    """Return a copy of the program in another folder."""
    folder.mkdir(exist_ok=True)
    copy = folder / "criu"
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    return str(copy)


def test_the_callers_choice_goes_first_then_the_environment_the_prefix_and_path(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_path = copied(program, tmp_path / "bin")
    assert locate.find_criu() == in_path
    in_prefix = copied(program, tmp_path / "prefix")
    assert locate.find_criu() == in_prefix
    monkeypatch.setenv("MIGRATE_CRIU", copied(program, tmp_path / "environment"))
    assert locate.find_criu() == str(tmp_path / "environment" / "criu")
    assert locate.find_criu(str(program)) == str(program)


def test_one_that_is_named_and_missing_is_never_passed_over(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(program, tmp_path / "bin")
    with pytest.raises(CriuError, match="--criu names /none, which does not exist"):
        locate.find_criu("/none")
    monkeypatch.setenv("MIGRATE_CRIU", "/none")
    with pytest.raises(CriuError, match="MIGRATE_CRIU names /none"):
        locate.find_criu()


def test_one_that_cannot_be_executed_is_refused(program: Path) -> None:
    program.chmod(0o644)
    with pytest.raises(CriuError, match="not executable"):
        locate.find_criu(str(program))


@pytest.mark.usefixtures("program")
def test_without_any_it_says_where_to_get_one() -> None:
    with pytest.raises(CriuError) as caught:
        locate.find_criu()
    assert "scripts/setup" in caught.value.hint


def test_a_relative_entry_of_path_is_not_looked_at(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(program, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "../here"]))
    with pytest.raises(CriuError):
        locate.find_criu()
