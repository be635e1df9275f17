"""What a command imports is measured on the command itself."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from bench import imports
from tests.support.folders import CHECKOUT


@pytest.fixture(autouse=True)
def _own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{CHECKOUT}/.venv/bin:{os.environ['PATH']}")


def test_a_command_has_its_own_modules_and_not_the_interpreters() -> None:
    def life(run: Callable[[list[str]], float]) -> None:
        run(["migrate", "--root", "/run/none", "list"])
        run(["migrate", "features"])

    found = imports.of_each(life, ("list", "features"))
    assert "migrate.cli.list_cmd" in found["list"]
    assert "migrate.cli.list_cmd" not in found["features"]
    assert "zipimport" not in found["list"]
    assert all(took >= 0 for modules in found.values() for took in modules.values())


def test_the_median_of_a_module_is_over_all_runs() -> None:
    runs = [{"list": {"a": 1.0}}, {"list": {"a": 9.0}}, {"list": {"a": 2.0}}]
    assert imports.medians(runs) == {"list": {"a": 2.0}}
