"""A store, bundles and a driver for the tests of `migrate.runtime`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from migrate.runtime import cgroup
from migrate.runtime.spec import default_spec
from migrate.runtime.state import Store

DRIVER = Path(__file__).with_name("driver.py")
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
Config = dict[str, Any]


class Failed(Exception):
    """What the driver replied with; `.reply` holds kind, error and hint."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(f"{reply['kind']}: {reply['error']} [{reply['hint']}]")
        self.reply = reply


class Runner:
    """Containers of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "state"
        self.store = Store(str(self.root))
        self.rootfs = folder / "bundle" / "rootfs"
        self.output = folder / "output"
        self._count = 0
        self.names: list[str] = []

    def name(self) -> str:
        """A new id."""
        self._count += 1
        name = f"runtime-{os.getpid()}-{self._count}"
        self.names.append(name)
        return name

    def bundle(self, *args: str, change: Callable[[Config], object] | None = None) -> Path:
        """The bundle, with a configuration that runs args."""
        config = default_spec(rootless=False)
        config["process"]["terminal"] = False
        config["process"]["args"] = list(args) or ["sleep", "10000"]
        config["root"]["readonly"] = False
        if change is not None:
            change(config)
        (self.folder / "bundle" / "config.json").write_text(json.dumps(config))
        return self.folder / "bundle"

    def popen(
        self,
        verb: str,
        *,
        pass_fds: tuple[int, ...] = (),
        prefix: Sequence[str] = (),
        **request: Any,
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """The driver at work, and where its reply will be."""
        self._count += 1
        base = self.folder / f"{self._count}"
        request |= {"root": str(self.root), "verb": verb}
        base.with_suffix(".in").write_text(json.dumps(request))
        reply = base.with_suffix(".out")
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [*prefix, PYTHON, "-I", "-S", DRIVER, base.with_suffix(".in"), reply],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                env={"SECRET": "1"},
            )
        return process, reply

    def call(self, verb: str, **request: Any) -> Any:
        """What the driver replies.

        Raises:
            Failed: the runtime raised.
        """
        process, reply = self.popen(verb, **request)
        status = process.wait(60)
        assert status == 0, self.text()
        said = json.loads(reply.read_text())
        if "error" in said:
            raise Failed(said)
        return said["value"]

    def create(self, name: str | None = None, **options: Any) -> Any:
        """The record of a new container of the bundle."""
        bundle = str(self.folder / "bundle")
        return self.call("create", name=name or self.name(), bundle=bundle, **options)

    def run(self, *args: str, change: Callable[[Config], object] | None = None) -> str:
        """The output of a container that has run to its end."""
        self.bundle(*args, change=change)
        self.output.write_bytes(b"")
        record = self.create()
        self.start(record)
        return self.text()

    def start(self, record: Any, *, wait: bool = True) -> None:
        """Start a container, and wait for its end."""
        pidfd = os.pidfd_open(record["pid"])
        try:
            self.call("start", name=record["id"])
            if wait:
                wait_for_end(pidfd)
        finally:
            os.close(pidfd)

    def text(self) -> str:
        """What containers and driver have written."""
        return self.output.read_text(errors="replace")

    def clean_up(self) -> None:
        """Take every container away."""
        for name in self.names:
            paths = cgroup.resolve(None, name)
            cgroup.kill(paths)
            cgroup.destroy(paths)
        shutil.rmtree(self.root, ignore_errors=True)


def wait_for_end(pidfd: int, timeout_seconds: float = 30) -> None:
    """Wait until a process has ended."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(timeout_seconds * 1000), "the process did not end"


def eventually(claim: Callable[[], object], timeout_seconds: float = 10) -> None:
    """Wait until a claim holds."""
    deadline = time.monotonic() + timeout_seconds
    while not claim():
        assert time.monotonic() < deadline, claim
        time.sleep(0.005)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A bundle of busybox, and a state root."""
    made = Runner(tmp_path)
    for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
        (made.rootfs / folder).mkdir(parents=True)
    shutil.copy2("/bin/busybox", made.rootfs / "bin" / "busybox")
    applets = (
        "sh cat ls sleep id grep env mount stat head readlink touch hostname chmod rm mkdir "
        "tty stty ps wc kill true false find sed ln echo date ulimit nproc ip awk tail"
    )
    for applet in applets.split():
        (made.rootfs / "bin" / applet).symlink_to("busybox")
    made.bundle()
    try:
        yield made
    finally:
        made.clean_up()
