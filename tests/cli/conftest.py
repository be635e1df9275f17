"""The command, run as engines run it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.folders import CHECKOUT

COMMAND = CHECKOUT / ".venv" / "bin" / "migrate"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `migrate` with a state root of the test's own, and an empty environment."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, "--root", tmp_path / "root", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={},
            stdin=subprocess.DEVNULL,
            timeout=30,
        )

    return call
