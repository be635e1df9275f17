"""A machine with systemd, once for hybrid control groups and once for cgroup v2 alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.bundle import make_bundle
from tests.support.hosts import Host, Site, wait_until
from tests.support.systemd import Machine, booted

Layout = Literal["machine", "v2"]
Change = Callable[[dict[str, Any]], object]


@contextmanager
def _runtime(layout: Layout) -> Iterator[Runtime]:
    with Site(layout=layout) as site, booted(site.host1) as machine:
        yield Runtime(machine, site.host2, is_v2=layout == "v2")


@pytest.fixture(scope="session")
def on_hybrid() -> Iterator[Runtime]:
    with _runtime("machine") as runtime:
        yield runtime


@pytest.fixture(scope="session")
def on_v2() -> Iterator[Runtime]:
    with _runtime("v2") as runtime:
        yield runtime


@pytest.fixture(scope="session")
def v2_machine(on_v2: Runtime) -> Machine:
    return on_v2.machine


class Runtime:
    """`migrate --systemd-cgroup` on a machine.

    Attributes:
        machine: where.
        destination: another host, without systemd.
        is_v2: it has cgroup v2 alone.
    """

    def __init__(self, machine: Machine, destination: Host, *, is_v2: bool) -> None:
        self.machine = machine
        self.destination = destination
        self.is_v2 = is_v2

    def bundle(self, change: Change | None = None, name: str = "bundle") -> str:
        """Make a bundle whose process sleeps, and return its path there."""
        path = f"/srv/{name}"
        folder = self.machine.host.folder(path)
        shutil.rmtree(folder, ignore_errors=True)
        make_bundle(folder, ["sleep", "10000"], change=change)
        return path

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run a command, with the driver, and return what it says on either output."""
        done = self.machine.run(["migrate", "--systemd-cgroup", *words], check=check)
        return done.stdout + done.stderr

    def state(self, container_id: str) -> dict[str, Any]:
        """Return what `state` says."""
        return json.loads(self("state", container_id))  # type: ignore[no-any-return]

    def groups(self, pid: int) -> dict[str, str]:
        """Return a process's place in each tree, as the machine sees it."""
        text = self.machine.enter(["cat", f"/proc/{pid}/cgroup"]).stdout
        return {line.split(":")[1]: line.split(":")[2] for line in text.splitlines()}

    def read(self, container_id: str, controller: str, name: str) -> str:
        """Return a file of a container's cgroup."""
        record = self.machine.enter(["cat", f"/run/migrate/{container_id}/state.json"]).stdout
        directory = Path(json.loads(record)["cgroup"][controller])
        return self.machine.enter(["cat", str(directory / name)]).stdout.strip()


# Of the session's scope, so that the machine is there before a test's leak check begins.
@pytest.fixture(scope="session", params=["hybrid", "v2"])
def either(request: pytest.FixtureRequest) -> Runtime:
    """The runtime on one machine, then on the other."""
    found: Runtime = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def runtime(either: Runtime) -> Iterator[Runtime]:
    """The runtime on either machine; nothing of its containers may be left."""
    yield from _clean(either)


@pytest.fixture
def hybrid(on_hybrid: Runtime) -> Iterator[Runtime]:
    """The runtime where limits can be set: this kernel's v2 tree has no such controllers."""
    yield from _clean(on_hybrid)


def _clean(runtime: Runtime) -> Iterator[Runtime]:
    units, groups = runtime.machine.units(), runtime.machine.groups()
    yield runtime
    for container_id in runtime("list", "-q").split():
        runtime("delete", "--force", container_id)
    slices: set[str] = set()

    def only_slices_are_left() -> bool:
        left = runtime.machine.units() - units
        slices.update(unit for unit in left if unit.endswith(".slice"))
        return left <= slices

    wait_until(only_slices_are_left, "systemd forgets the scopes of containers and commands")
    # A slice stays when it is empty, and on v1 its directories that systemd does not know.
    if slices:
        runtime.machine.enter(["systemctl", "stop", *slices])
    for group in sorted(runtime.machine.groups() - groups, key=len, reverse=True):
        assert group.endswith(".slice")
        runtime.machine.enter(["rmdir", group], check=False)
    assert runtime.machine.groups() <= groups
