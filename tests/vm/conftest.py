"""Two machines for all of these tests, and a look at what each test left in them.

They are left out unless the variable VM is set, as `make test-vm` does: VM=short runs
what is a few minutes' matter, VM=all the long ones too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.folders import CHECKOUT
from tests.vm.container import Container, container_of
from tests.vm.machines import Pair

HERE = Path(__file__).parent
EMULATOR = "qemu-system-x86_64"
WANTED = os.environ.get("VM", "")
# What a container, an engine or a migration would leave.
SNAPSHOT = r"""
find /run/migrate /run/netns -mindepth 1 -maxdepth 1 2>/dev/null
ls -d /var/lib/migrate/*/* /srv/* 2>/dev/null
ls /sys/class/net
find /sys/fs/cgroup -type d ! -path '*/system.slice*' ! -path '*/user.slice*' ! -path '*/init*'
findmnt --noheadings --list --output TARGET | grep -vx /run/netns
nft list ruleset
ps -eo args= | grep -E 'criu|bin/migrate|busybox|payload|conmon' | grep -v grep
true
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark these tests, and leave out those that are not wanted."""
    left_out = []
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.timeout(600))
        if shutil.which(EMULATOR) is not None:
            item.add_marker(pytest.mark.machines)
        is_long = item.get_closest_marker("long") is not None
        if not WANTED or (is_long and WANTED != "all"):
            left_out.append(item)
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The two machines, booted once."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which(EMULATOR) is None:
        pytest.skip("needs QEMU: run scripts/setup --machines")
    boxes = sorted(CHECKOUT.glob(".cache/box/*/root.img"))
    if not boxes:
        pytest.skip("needs a box: run scripts/build-box")
    with Pair(boxes[-1].parent, tmp_path_factory.mktemp("vm")) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(pair: Pair) -> Iterator[None]:
    """No container, process, mount, group, link or rule outlives its test in a machine."""
    before = {name: snapshot(pair, name) for name in pair.machines}
    yield
    left = [
        f"{name}: {line}"
        for name, lines in before.items()
        for line in sorted(snapshot(pair, name) - lines)
    ]
    assert not left, "left behind:\n" + "\n".join(left)


def snapshot(pair: Pair, name: str) -> set[str]:
    """Return what is there now, a line each."""
    return set(pair.machines[name].run(SNAPSHOT).stdout.splitlines())


@pytest.fixture
def unmade(pair: Pair) -> Iterator[Container]:
    """A container that the test makes as it needs it."""
    with container_of(pair) as container:
        yield container


@pytest.fixture
def container(unmade: Container) -> Container:
    """A container on host1, running, with a connection from here."""
    unmade.create()
    return unmade
