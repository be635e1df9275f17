"""What both sides say of a move, looked at for real on this host."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import ProtocolError
from migrate.events import Finding
from migrate.live import preflight
from migrate.live.hearing import findings_of
from migrate.live.host_facts import HostFacts, gather
from migrate.live.needs import Needs
from migrate.runtime.state import Store
from tests.live.test_comparison import HOST

Question = Callable[..., dict[str, Any]]


@pytest.fixture
def question(tmp_path: Path, criu: str) -> Question:
    def ask(*, thorough: bool = False, **needs: Any) -> dict[str, Any]:
        here = gather(criu=criu, bundle=str(tmp_path))
        wanted = Needs(container_id="c", **needs)
        asked = {"host": here.to_json(), "needs": wanted.to_json(), "thorough": thorough}
        return json.loads(json.dumps(asked))  # type: ignore[no-any-return]

    return ask


def look(question: object, tmp_path: Path, criu: str) -> list[Finding]:
    here, store = gather(criu=criu), Store(str(tmp_path / "state"))
    answer = preflight.look_there(question, here=here, store=store, bundle=str(tmp_path / "b"))
    assert HostFacts.from_json(answer["host"]).name == os.uname().nodename
    return findings_of(json.loads(json.dumps(answer["findings"])), "two")


def objections(found: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.verdict) for each in found if each.verdict != "ok"]


@pytest.mark.criu
def test_this_host_itself_would_do(question: Question, tmp_path: Path, criu: str) -> None:
    found = look(question(), tmp_path, criu)
    assert objections(found) == []
    assert {each.check for each in found} >= {"criu", "cpu", "room", "limits", "id", "seccomp"}


@pytest.mark.criu
def test_a_thorough_look_says_what_the_host_is(
    question: Question, tmp_path: Path, criu: str
) -> None:
    brief = {each.message for each in look(question(), tmp_path, criu)}
    added = [
        each for each in look(question(thorough=True), tmp_path, criu) if each.message not in brief
    ]
    assert {each.check for each in added} >= {"pre-copy", "post-copy", "namespaces", "network"}


@pytest.mark.criu
def test_a_process_number_that_is_taken_is_refused(
    question: Question, tmp_path: Path, criu: str
) -> None:
    found = look(question(pids=[os.getpid()]), tmp_path, criu)
    assert objections(found) == [("pids", "refuse")]


@pytest.mark.criu
def test_a_bundle_of_somebody_else_is_refused(
    question: Question, tmp_path: Path, criu: str
) -> None:
    (tmp_path / "b").mkdir()
    (found,) = [each for each in look(question(), tmp_path, criu) if each.verdict != "ok"]
    assert (found.check, found.verdict) == ("bundle", "refuse")
    assert "--bundle" in found.hint


@pytest.mark.criu
def test_an_address_of_the_host_itself_is_refused(
    question: Question, tmp_path: Path, criu: str
) -> None:
    address = {"127.0.0.1": {"mac": "02:00:00:00:00:01", "bridge": "nowhere"}}
    found = [
        each
        for each in look(question(addresses=address), tmp_path, criu)
        if each.verdict == "refuse"
    ]
    assert [each.check for each in found] == ["network"]
    assert "127.0.0.1 of the container is" in found[0].message


@pytest.mark.criu
def test_a_namespace_outside_of_run_is_refused(
    question: Question, tmp_path: Path, criu: str
) -> None:
    found = look(question(namespace_path=str(tmp_path)), tmp_path, criu)
    assert objections(found) == [("network", "refuse")]


def test_a_criu_that_is_not_there_is_refused_with_its_hint(tmp_path: Path) -> None:
    asked = {"host": HOST.to_json(), "needs": {"container_id": "c"}, "thorough": False}
    found = look(asked, tmp_path, "/nonexistent/criu")
    assert (found[0].check, found[0].verdict) == ("criu", "refuse")
    assert found[0].hint


def asked(**wrong: Any) -> dict[str, Any]:
    return {"host": {}, "needs": {"container_id": "c"}, "thorough": False} | wrong


@pytest.mark.parametrize(
    "question",
    [
        None,
        [],
        {},
        asked(thorough=1),
        asked(host={"memory_bytes": "much"}),
        asked(host={"bridges": {"br0": {"surprise": 1}}}),
        asked(host={"huge_pages": {"2048": "all"}}),
        asked(host={"is_root": 1}),
        asked(needs=7),
        asked(needs={"container_id": 7}),
        asked(needs={"container_id": "c", "controllers": {}}),
        asked(needs={"container_id": "c", "pids": ["1"]}),
        asked(needs={"container_id": "c", "addresses": {"10.0.0.1": {}}}),
        asked(needs={"container_id": "c", "addresses": {"x": {"mac": "", "bridge": ""}}}),
    ],
)
def test_a_question_that_cannot_be_is_refused(question: object, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="preflight"):
        preflight.look_there(question, here=HOST, store=Store(str(tmp_path)), bundle="/b")
