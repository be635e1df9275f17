"""Names of the image exchanged all the time, by several processes, while containers are made.

CVE-2021-30465, CVE-2025-31133, CVE-2025-52565 and the like: what was looked at is another
thing when it is used. Made inside or refused are both right; nothing else may happen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.attacks.test_paths import EXCHANGER, bare_dev, bind, listing
from tests.oci.driver import Bundle, Config, Runtime, killed_at_end, mounts_below

RACE_SECONDS = 4
EXCHANGERS = 2
SECRET = "of the host"


@contextmanager
def exchanged(*pairs: tuple[Path, Path]) -> Iterator[None]:
    """Have each two names exchanged by more processes than there are processors."""
    with ExitStack() as stack:
        for pair in pairs * EXCHANGERS:
            line = [sys.executable, "-c", EXCHANGER, *map(str, pair)]
            process = stack.enter_context(
                killed_at_end(subprocess.Popen(line, stdout=subprocess.PIPE))
            )
            assert process.stdout
            stack.callback(process.stdout.close)
            process.stdout.readline()
        yield


@pytest.fixture
def outside(runtime: Runtime) -> Path:
    """A folder of the host's that nothing may be made in or read from."""
    path = runtime.workspace / "outside"
    (path / "inner").mkdir(parents=True)
    (path / "file").write_text(SECRET)
    return path


def working_directory(runtime: Runtime, outside: Path) -> tuple[Bundle, Path, Path]:
    def change(config: Config) -> None:
        config["process"]["cwd"] = "/swap/made/for/it"

    bundle = runtime.bundle("sh", "-c", "cat /swap/file", change=change)
    return _with_link(bundle, bundle.rootfs / "swap", outside)


def device(runtime: Runtime, outside: Path) -> tuple[Bundle, Path, Path]:
    def change(config: Config) -> None:
        config["linux"]["devices"] = [
            {"path": "/swap/node", "type": "c", "major": 1, "minor": 3},
            {"path": "/swap/deep/node", "type": "c", "major": 1, "minor": 3},
        ]

    bundle = runtime.bundle("sh", "-c", "cat /swap/file", change=change)
    return _with_link(bundle, bundle.rootfs / "swap", outside)


def volume(runtime: Runtime, outside: Path) -> tuple[Bundle, Path, Path]:
    data = runtime.workspace / "data"
    data.mkdir()

    def change(config: Config) -> None:
        bind(config, data, "/swap/inner")
        bind(config, data, "/swap/made/deep")
        config["linux"]["maskedPaths"] += ["/swap/file"]
        config["linux"]["readonlyPaths"] += ["/swap/inner"]

    bundle = runtime.bundle("sh", "-c", "cat /swap/file", change=change)
    return _with_link(bundle, bundle.rootfs / "swap", outside)


def system_directory(runtime: Runtime, outside: Path) -> tuple[Bundle, Path, Path]:
    bundle = runtime.bundle("sh", "-c", "cat /dev/file")
    (bundle.rootfs / "dev").mkdir(exist_ok=True)
    return _with_link(bundle, bundle.rootfs / "dev", outside)


def _with_link(bundle: Bundle, name: Path, outside: Path) -> tuple[Bundle, Path, Path]:
    name.mkdir(exist_ok=True)
    link = bundle.rootfs / "link"
    link.symlink_to(outside)
    return bundle, name, link


@pytest.mark.parametrize("make", [working_directory, device, volume, system_directory])
def test_a_directory_exchanged_for_a_link_leads_nowhere_out(
    runtime: Runtime,
    outside: Path,
    make: Callable[[Runtime, Path], tuple[Bundle, Path, Path]],
) -> None:
    bundle, name, link = make(runtime, outside)
    before, host = listing(outside), Path("/proc/self/mountinfo").read_text()
    with exchanged((name, link)):
        until = time.monotonic() + RACE_SECONDS
        while time.monotonic() < until:
            assert SECRET not in runtime.run(bundle).out
            assert listing(outside) == before
            assert runtime.ids() == []
    assert Path("/proc/self/mountinfo").read_text() == host
    assert mounts_below(runtime.workspace) == []


def test_a_null_device_exchanged_for_a_file_or_a_link_unmasks_nothing(
    runtime: Runtime, outside: Path
) -> None:
    script = "stat -c '%t:%T' /etc/passwd; cat /etc/passwd"
    bundle = bare_dev(runtime, "sh", "-c", script)
    folder = bundle.rootfs / "dev"
    for path in folder.iterdir():
        path.unlink()
    os.mknod(folder / "null", 0o020666, os.makedev(1, 3))
    (folder / "false").symlink_to(outside / "file")
    (folder / "other").write_text("unmasked")
    made = 0
    with exchanged((folder / "null", folder / "false"), (folder / "null", folder / "other")):
        until = time.monotonic() + RACE_SECONDS
        while time.monotonic() < until:
            result = runtime.run(bundle)
            assert SECRET not in result.out
            assert "unmasked" not in result.out
            if result.status == 0:
                made += 1
                assert result.out == "1:3\n", str(result)
    assert made
    assert (outside / "file").read_text() == SECRET


def test_a_console_exchanged_for_a_link_gives_no_terminal_away(
    runtime: Runtime, outside: Path
) -> None:
    def change(config: Config) -> None:
        config["mounts"] = [
            m
            for m in config["mounts"]
            if m["destination"] == "/dev/pts" or not m["destination"].startswith("/dev")
        ]
        config["process"]["terminal"] = True

    bundle = runtime.bundle("sh", "-c", "echo seen >/dev/console", change=change)
    folder = bundle.rootfs / "dev"
    folder.mkdir(exist_ok=True)
    (folder / "console").touch()
    (folder / "false").symlink_to(outside / "file")
    made = 0
    with exchanged((folder / "console", folder / "false")):
        until = time.monotonic() + RACE_SECONDS
        while time.monotonic() < until:
            made += _run_on_a_terminal(runtime, bundle) == 0
            assert (outside / "file").read_text() == SECRET
    assert made  # not every one refused
    assert mounts_below(runtime.workspace) == []


def _run_on_a_terminal(runtime: Runtime, bundle: Bundle) -> int:
    """Run a container whose terminal is relayed to one of ours; return its exit status."""
    master, slave = os.openpty()
    try:
        line = runtime.argv("run", "--bundle", str(bundle.path), runtime.new_id())
        return subprocess.run(
            ["setsid", "--ctty", *line], stdin=slave, stdout=slave, stderr=slave,
            env=runtime.environment, timeout=60, check=False,
        ).returncode  # fmt: skip
    finally:
        os.close(slave)
        os.close(master)
