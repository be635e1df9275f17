"""Fixtures of tests/attacks: the project's own command, and programs made to attack it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.driver import PROJECT, Config, Runtime
from tests.oci.fixtures import default_config, image, image_tarball, lent

__all__ = ["image", "image_tarball"]

COMMAND = str(PROJECT / ".venv" / "bin" / "migrate")
SOURCES = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every attack needs root."""
    for item in items:
        if item.path.is_relative_to(SOURCES):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def base_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """What `migrate spec` writes, without a terminal and with a writable root."""
    return default_config(COMMAND, tmp_path_factory.mktemp("spec"))


@pytest.fixture
def runtime(tmp_path: Path, image: Path, base_config: Config) -> Iterator[Runtime]:
    """The project's own runtime with an empty state root of its own."""
    with lent(COMMAND, tmp_path, image, base_config) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the attackers of this folder are, built: `loader` and `trap.so`."""
    path = tmp_path_factory.mktemp("built")
    freestanding = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1"]
    for name, flags in (("loader", freestanding), ("trap.so", ["-shared", "-fPIC"])):
        source = SOURCES / f"{name.partition('.')[0]}.c"
        subprocess.run(["gcc", *flags, "-o", str(path / name), str(source)], check=True)
    return path
