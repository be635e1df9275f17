"""What every test gets: isolation from the machine, two hosts on demand, a leak check.

A test that needs what this machine lacks is skipped and says why; but `make test`
fails when a test marked `root`, `criu`, `hosts` or `machines` was skipped, for those are
what the project is about.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import kernel, leaks
from tests.support.folders import CHECKOUT
from tests.support.hosts import Site
from tests.support.isolation import isolated

if TYPE_CHECKING:
    from tests.support.cgroups import Nest

REQUIRED = {"root", "criu", "hosts", "machines"}
NEST = pytest.StashKey["Nest"]()
_isolation = ExitStack()
_skipped: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Leave the machine before anything else happens."""
    # A shell starts what it puts into the background with SIGINT ignored, and every
    # program started from here would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None:
        scratch = tempfile.mkdtemp(prefix="migrate-tests-")
        _isolation.callback(shutil.rmtree, scratch, ignore_errors=True)
        config.option.basetemp = f"{scratch}/tmp"
    if os.geteuid() == 0:
        config.stash[NEST] = _isolation.enter_context(isolated())


def pytest_unconfigure() -> None:
    """Give back the control groups, remove the scratch folder."""
    _isolation.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses hosts, so that nobody has to remember to."""
    for item in items:
        if {"site", "hosts"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.hosts)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here."""
    needs = REQUIRED & {mark.name for mark in item.iter_markers()}
    if needs and os.geteuid() != 0:
        pytest.skip("needs root")
    if needs & {"criu", "hosts"} and not criu_path():
        pytest.skip("needs a CRIU: run scripts/setup")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember which required test did not run."""
    if report.skipped and REQUIRED & set(report.keywords):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where a required test was skipped."""
    if _skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the required tests that were skipped, above the last line."""
    for nodeid in _skipped:
        terminalreporter.write_line(f"REQUIRED BUT SKIPPED {nodeid}", red=True)


def criu_path() -> str | None:
    """Return the CRIU that scripts/setup found working, if it did."""
    stamp = CHECKOUT / ".prefix" / "stamps" / "criu.path"
    return stamp.read_text() if stamp.exists() else None


@pytest.fixture(scope="session")
def criu() -> str:
    """The path of a CRIU that works here."""
    path = criu_path()
    if path is None:
        pytest.skip("needs a CRIU: run scripts/setup")
    return path


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Two hosts and a client, made once; whoever uses them leaves them as they were."""
    with Site() as made:
        yield made


@pytest.fixture
def hosts(site: Site) -> Iterator[Site]:
    """Two hosts and a client, checked afterwards: nothing may be left in either."""
    before = {host: leaks.of_host(host) for host in site.hosts.values()}
    yield site
    found = [
        f"{host.name}: {line}"
        for host, state in before.items()
        for line in leaks.left(state, lambda host=host: leaks.of_host(host))  # type: ignore[misc]
    ]
    if found:
        for host, state in before.items():
            _clean_up(host.nest, state, host.pid)
    assert not found, "left behind:\n" + "\n".join(found)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process, mount, cgroup, link, descriptor or thread outlives its test."""
    nest = request.config.stash.get(NEST, None)
    before = leaks.of_this_process(nest)
    yield
    found = leaks.left(before, lambda: leaks.of_this_process(nest))
    if found and nest is not None:
        _clean_up(nest, before, os.getpid())
        for line in leaks.new(before, {"mount": leaks.mounts(os.getpid())}):
            kernel.umount2(line.split()[-1], kernel.MNT_DETACH)
    assert not found, "left behind:\n" + "\n".join(found)


def _clean_up(nest: Nest, before: leaks.Snapshot, host_pid: int) -> None:
    """Take away processes and groups that a test left, so that the next starts clean."""
    keep = {int(line.split()[0]) for line in before["process"]}
    nest.kill(keep=frozenset(keep | {host_pid}))
    nest.prune(keep=frozenset(before["cgroup"]))
