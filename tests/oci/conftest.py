"""Fixtures of tests/oci: the runtime under test; and what the reference skips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import Config, Runtime, is_runc, runtime_command
from .fixtures import default_config, image, image_tarball, lent
from .oracle import NOT_RUNC

__all__ = ["image", "image_tarball"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        name = getattr(item, "originalname", item.name)
        reason = NOT_RUNC.get(item.name) or NOT_RUNC.get(name)
        if is_runc() and reason:
            item.add_marker(pytest.mark.skip(reason=f"runc 1.1.5: {reason}"))
        else:
            item.add_marker(
                pytest.mark.criu if "checkpoint" in item.path.name else pytest.mark.root
            )


@pytest.fixture(scope="session")
def base_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """What the runtime's own `spec` writes, without a terminal and with a writable root."""
    return default_config(runtime_command(), tmp_path_factory.mktemp("spec"))


@pytest.fixture
def runtime(tmp_path: Path, image: Path, base_config: Config) -> Iterator[Runtime]:
    """The runtime with an empty state root of its own."""
    with lent(runtime_command(), tmp_path, image, base_config) as runtime:
        yield runtime
