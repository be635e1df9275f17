"""Fixtures of tests/oci: the runtime under test; and what a reference is not asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import kernel

from .driver import CGROUP_ROOT, Config, Runtime, oracle, runtime_command
from .fixtures import default_config, image, image_tarball, lent
from .oracle import reason_against

__all__ = ["image", "image_tarball"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        reason = reason_against(item.path.stem, getattr(item, "originalname", item.name), item.name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        else:
            item.add_marker(
                pytest.mark.criu if "checkpoint" in item.path.name else pytest.mark.root
            )


@pytest.fixture(scope="session")
def base_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """What the runtime's own `spec` writes, without a terminal and with a writable root."""
    return default_config(runtime_command(), tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="session", autouse=True)
def layout_for_crun() -> None:
    """Hide the unified hierarchy of a hybrid host from crun, which refuses such hosts.

    It does so where a controller is on the unified hierarchy. The tests' own mount
    namespace ends with them.
    """
    unified = CGROUP_ROOT / "unified"
    if oracle() == "crun" and (unified / "cgroup.procs").exists():
        kernel.umount2(str(unified), kernel.MNT_DETACH)
        unified.rmdir()  # or it makes folders in it


@pytest.fixture
def runtime(tmp_path: Path, image: Path, base_config: Config) -> Iterator[Runtime]:
    """The runtime with an empty state root of its own."""
    with lent(runtime_command(), tmp_path, image, base_config) as runtime:
        yield runtime
