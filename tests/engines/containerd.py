"""containerd and `ctr` as the tests use them: offline, with root, state and socket of its own.

Lives here: the daemon's configuration and life, the commands. Must not live here:
pytest. containerd starts its shim, and that the runtime, as `--runc-binary` says.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.hosts import Host, wait_until
from tests.support.processes import Process

from .place import RUNTIME, Terminal

IMAGE = "localhost/busybox:latest"
SHIM = "io.containerd.runc.v2"
KUBERNETES = "io.containerd.grpc.v1.cri"
# Kubernetes' interface where nobody asks for it, storage this machine lacks, tracing to a
# collector there is none of.
NOT_NEEDED = (
    KUBERNETES,
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
)


class Containerd:
    """A containerd on a host, reached by `ctr`.

    Args:
        host: where it runs.
        folder: its root, state, socket and log.
        kubernetes: the configuration of Kubernetes' interface; without, it is off.
    """

    def __init__(self, host: Host, folder: Path, kubernetes: str = "") -> None:
        self.host = host
        self.folder = folder
        self._kubernetes = kubernetes
        self._environment = {"CONTAINERD_ADDRESS": f"{folder}/socket"}

    @contextmanager
    def up(self) -> Iterator[None]:
        """Be there for the length of the block."""
        path, log = self.folder / "config.toml", self.folder / "log"
        path.write_text(self._configuration())
        with (
            log.open("w") as output,
            self.host.popen(
                ["containerd", "--config", path], stdout=output, stderr=output
            ) as daemon,
        ):
            try:
                wait_until(lambda: self._answers(daemon, log), "containerd answers")
                yield
            finally:
                daemon.signal()
                daemon.wait(20)

    def _configuration(self) -> str:
        unwanted = [name for name in NOT_NEEDED if not self._kubernetes or name != KUBERNETES]
        plugins = json.dumps(unwanted)
        # An import is not yet anybody's for a moment: the collector must not run meanwhile.
        return (
            f'version = 2\nroot = "{self.folder}/root"\nstate = "{self.folder}/state"\n'
            f"disabled_plugins = {plugins}\n"
            f'[grpc]\naddress = "{self.folder}/socket"\n'
            f'[ttrpc]\naddress = "{self.folder}/socket.ttrpc"\n'
            '[plugins."io.containerd.gc.v1.scheduler"]\nstartup_delay = "1h"\n'
            f"deletion_threshold = 0\nmutation_threshold = 0\n{self._kubernetes}"
        )

    def _answers(self, daemon: Process, log: Path) -> bool:
        assert daemon.poll() is None, log.read_text()
        return self("version", check=False).returncode == 0

    def __call__(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `ctr WORDS`."""
        return self.host.run(["ctr", *words], check=check, env=self._environment)

    def says(self, *words: str | Path) -> str:
        """What a command that must succeed prints, without the last line's end."""
        return self(*words).stdout.rstrip("\n")

    def run(
        self,
        name: str,
        *command: str,
        options: Sequence[str] = ("--rm",),
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a container with the runtime under test; in the foreground, unless `-d` is given."""
        return self("run", *runtime_options(), *options, IMAGE, name, *command, check=check)

    def start(self, name: str, *command: str, options: Sequence[str] = ()) -> None:
        """Run a container in the background (default: one that sleeps)."""
        self.run(name, *(command or ("sleep", "10000")), options=("-d", *options), check=True)

    def exec(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a further process in a container."""
        return self("task", "exec", "--exec-id", "further", name, *command, check=False)

    def status(self, name: str) -> str:
        """What `ctr task list` says of a container, "" where it has no task."""
        rows = [line.split() for line in self.says("task", "list").splitlines()[1:]]
        return next((row[2] for row in rows if row[0] == name), "")

    def terminal(self, *words: str, size: tuple[int, int] = (24, 80)) -> Terminal:
        """Run `ctr WORDS` with a terminal in front of it."""
        settings = [f"{name}={value}" for name, value in self._environment.items()]
        return Terminal(self.host, ["env", *settings, "ctr", *words], size)

    @contextmanager
    def events(self) -> Iterator[Any]:
        """Give a function that returns what `ctr events` has printed so far."""
        with (
            tempfile.TemporaryFile("w+") as output,
            self.host.popen(["ctr", "events"], stdout=output, env=self._environment),
        ):

            def seen() -> str:
                output.seek(0)
                return output.read()

            # Subscribed only once an event of our own comes through.
            def subscribed() -> bool:
                self("namespace", "label", "default", "seen=yes")
                return "/namespaces/update" in seen()

            wait_until(subscribed, "ctr events is subscribed")
            yield seen

    def remove(self, name: str) -> None:
        """Kill and remove a container, if it is there."""
        self("task", "kill", "--signal", "KILL", name, check=False)
        wait_until(lambda: self.status(name) in ("STOPPED", ""), f"{name} stops")
        self("task", "delete", name, check=False)
        self("container", "delete", name, check=False)

    def remove_everything(self) -> None:
        """Kill and remove every container, and every image but the first."""
        for name in self.says("container", "list", "--quiet").split():
            self.remove(name)
        for name in self.says("image", "list", "--quiet").split():
            if name != IMAGE:
                self("image", "remove", name)


def runtime_options() -> list[str]:
    """The options of `ctr run` that choose the runtime under test."""
    return ["--runtime", SHIM, "--runc-binary", RUNTIME]
