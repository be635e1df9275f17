"""The calls that CRI-O makes, in its order and with its options, replayed on a command line.

CRI-O itself is not in Debian. It starts containers through conmon, as podman does, and
calls the runtime itself for the rest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundle import make_bundle
from tests.support.hosts import Host, wait_until

from .place import RUNTIME


class Crio:
    """What CRI-O has of one container: its bundle, and conmon beside it."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.bundle = make_bundle(folder / "bundle", ["sleep", "10000"])

    def __call__(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the runtime with CRI-O's global options."""
        root = ["--root", f"{self.folder}/state"]
        return self.host.run([RUNTIME, *root, *words], check=check)

    def monitor(self, *more: str | Path) -> None:
        """Start conmon, which creates or restores the container, and wait for the pid file."""
        pid_file = self.folder / "pid"
        pid_file.unlink(missing_ok=True)
        words = ["conmon", "--cid", "box", "--cuuid", "box", "--name", "box", "--runtime", RUNTIME]
        words += ["--runtime-arg", f"--root={self.folder}/state", "--bundle", str(self.bundle)]
        words += ["--container-pidfile", str(pid_file), "--exit-dir", str(self.folder)]
        words += ["--conmon-pidfile", str(self.folder / "conmon.pid")]
        words += ["--log-path", str(self.folder / "log"), "--socket-dir-path", str(self.folder)]
        self.host.run_detached([*words, "--persist-dir", str(self.folder), *map(str, more)])
        wait_until(pid_file.exists, "the pid file is there")
        wait_until(lambda: self("state", "box", check=False).returncode == 0, "it is there")

    def state(self) -> str:
        """The container's status."""
        return str(json.loads(self("state", "box").stdout)["status"])


@pytest.fixture
def crio(place: Host) -> Iterator[Crio]:
    """A container's bundle; the container is removed at the end."""
    folder = place.scratch / "crio"
    made = Crio(place, folder)
    yield made
    made("delete", "--force", "box", check=False)
    # It writes down how the container ended before it ends itself.
    wait_until(lambda: "conmon" not in place.run(["ps", "-eo", "comm"]).stdout, "conmon ends")
    shutil.rmtree(folder)


def test_the_features_it_reads_are_there(crio: Crio) -> None:
    features = json.loads(crio("features").stdout)
    assert features["ociVersionMin"] <= features["ociVersionMax"]
    assert features["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    assert "rro" in features["mountOptions"]


def test_a_container_lives_through_its_calls(crio: Crio) -> None:
    crio.monitor()
    assert crio.state() == "created"
    crio("start", "box")
    assert crio.state() == "running"
    crio("pause", "box")
    assert crio.state() == "paused"
    crio("resume", "box")
    crio("kill", "box", "TERM")
    crio("kill", "box", "SIGKILL")
    wait_until(lambda: crio.state() == "stopped", "it stops")
    crio("delete", "--force", "box")
    gone = crio("state", "box", check=False)
    assert gone.returncode == 1
    assert "does not exist" in gone.stderr


def test_a_container_is_checkpointed_and_restored_through_conmon(crio: Crio) -> None:
    crio.monitor()
    crio("start", "box")
    images = crio.folder / "checkpoint"
    paths = ["--image-path", str(images), "--work-path", str(crio.folder)]
    crio("checkpoint", "--file-locks", *paths, "--leave-running", "box")
    assert crio.state() == "running"
    crio("kill", "box", "KILL")
    wait_until(lambda: crio.state() == "stopped", "it stops")
    crio("delete", "--force", "box")
    crio.monitor("--restore", images)
    assert crio.state() == "running"
