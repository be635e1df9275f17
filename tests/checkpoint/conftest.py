"""Containers to be checkpointed, and where their images go.

Lives here: the container under test as an object, driven by the command line, and the
program that does in it whatever a checkpoint must carry.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migrate.checkpoint.facts import Facts
from migrate.checkpoint.inspect import inspect
from migrate.runtime.spec import decode
from migrate.runtime.state import Store
from tests.support.bundle import Config, make_bundle
from tests.support.folders import CHECKOUT

if TYPE_CHECKING:
    from migrate.runtime.state import Record

MIGRATE = str(CHECKOUT / ".venv" / "bin" / "migrate")
PATIENCE_SECONDS = 20.0
_numbers = itertools.count(1)


def eventually(claim: Callable[[], object], what: str) -> None:
    """Wait until a claim holds; fail with its name if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not claim():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


class Box:
    """One container, from its bundle to its end.

    Attributes:
        images: directory for a checkpoint, not there yet.
        rootfs: of its bundle, as the host sees it.
    """

    def __init__(self, folder: Path, *args: str, change: Callable[[Config], object] | None) -> None:
        self.id = f"checkpoint-{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self.bundle = make_bundle(folder / "bundle", args, change=change)
        self.rootfs = self.bundle / "rootfs"
        self.images = folder / "images"
        self.store = Store(str(folder / "state"))
        self.said = ""

    def migrate(self, *args: str, stdio: int | None = None, check: bool = True) -> int:
        """Run the command line; its output is kept in `said`.

        Args:
            stdio: what the container gets as standard output and error; /dev/null
                if None, and then what the command says is kept.
        """
        log = self.folder / "said"
        with log.open("wb") as file:
            process = subprocess.run(
                [MIGRATE, "--root", self.store.root, "--log", str(self.folder / "log"), *args],
                stdin=subprocess.DEVNULL,
                stdout=file
                if args[0] != "run" and "-d" not in args
                else stdio or subprocess.DEVNULL,
                stderr=file
                if args[0] != "run" and "-d" not in args
                else stdio or subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        self.said = log.read_text()
        if check and process.returncode:
            errors = (self.folder / "log").read_text() if (self.folder / "log").exists() else ""
            raise AssertionError(f"migrate {args[0]}: {self.said}{errors}{self.criu_log()}")
        return process.returncode

    def start(self, *more: str, stdio: int | None = None) -> None:
        """Create and start it, detached."""
        self.migrate("run", "-d", "--bundle", str(self.bundle), *more, self.id, stdio=stdio)

    def checkpoint(self, *more: str, check: bool = True) -> int:
        """Make a checkpoint into `images`."""
        return self.migrate(
            "checkpoint", "--image-path", str(self.images), *more, self.id, check=check
        )

    def restore(
        self,
        *more: str,
        bundle: Path | None = None,
        stdio: int | None = None,
        check: bool = True,
    ) -> int:
        """Restore it from `images`, detached."""
        where = ("--image-path", str(self.images), "--bundle", str(bundle or self.bundle))
        return self.migrate("restore", "-d", *where, *more, self.id, stdio=stdio, check=check)

    def delete(self) -> None:
        """End it, whatever state it is in."""
        self.migrate("delete", "--force", self.id)

    @property
    def record(self) -> Record:
        """Its record."""
        return self.store.load(self.id)

    @property
    def status(self) -> str:
        """Its status, as `state` says."""
        self.migrate("state", self.id)
        return str(json.loads(self.said)["status"])

    def facts(self) -> Facts:
        """What it is to CRIU."""
        path = f"{self.store.path(self.id)}/config.json"
        return inspect(self.record, decode(Path(path).read_bytes(), path))

    def words(self, name: str = "status") -> dict[str, str]:
        """Return the NAME=VALUE words of a file of its rootfs."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.rootfs / name).read_text().partition("\n")[0]
            return dict(word.split("=", 1) for word in text.split() if "=" in word)
        return {}

    def number(self, word: str) -> int:
        """Return one number of its status file, 0 before it is there."""
        return int(self.words().get(word, "0"))

    def criu_log(self) -> str:
        """Return the errors CRIU logged."""
        lines = []
        for log in sorted(self.images.glob("*.log")):
            text = log.read_text(errors="replace")
            lines += [line for line in text.splitlines() if "Error" in line or "Warn" in line]
        return "\n".join(lines)


Maker = Callable[..., Box]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Maker]:
    """Makes containers; they end with the test."""
    with contextlib.ExitStack() as stack:

        def make(*args: str, change: Callable[[Config], object] | None = None) -> Box:
            made = Box(tmp_path / f"box{next(_numbers)}", *args, change=change)
            stack.callback(made.delete)
            return made

        yield make


def compiled(folder: Path, name: str) -> Path:
    """Return the static program of a source beside this file."""
    path = folder / name
    flags = ["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror"]
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["gcc", *flags, "-o", path, source], check=True)
    return path


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of subject.c."""
    return compiled(tmp_path_factory.mktemp("subject"), "subject")
