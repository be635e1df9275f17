"""podman as the tests use it: offline, with storage and state of its own.

Lives here: its configuration, its image, its commands. Must not live here:
pytest. Used by tests/engines and by the benchmark of `podman run`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.hosts import Host, wait_until

from .place import RUNTIME, Terminal

IMAGE = "localhost/busybox"
# A machine without CAP_SYS_RESOURCE cannot raise the limits podman would ask for.
ULIMITS = ("nofile=1024:1024", "nproc=4096:4096")


class Podman:
    """One podman on one host.

    Args:
        host: where it runs.
        folder: for its storage, state, networks, hooks and logs.
        runtime: the OCI runtime it uses.
    """

    def __init__(self, host: Host, folder: Path, runtime: str = RUNTIME) -> None:
        self.host = host
        self.folder = folder
        self.hooks = folder / "hooks"
        for name in ("graph", "tmp", "networks", "volumes", "hooks"):
            (folder / name).mkdir(parents=True)
        (folder / "containers.conf").write_text(self._configuration(runtime))
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\n'
            # Longer than 50 characters it makes podman's own clean-up refuse to work.
            f'runroot = "/run/storage-{folder.name}"\n'
        )

    def _configuration(self, runtime: str) -> str:
        folder = self.folder
        sections: dict[str, dict[str, Any]] = {
            "containers": {
                "default_ulimits": list(ULIMITS),
                "apparmor_profile": "",
                "log_driver": "k8s-file",
                "netns": "none",
            },
            "engine": {
                "runtime": "under-test",
                "cgroup_manager": "cgroupfs",
                "events_logger": "file",
                "events_logfile_path": f"{folder}/events.log",
                "tmp_dir": f"{folder}/tmp",
                "volume_path": f"{folder}/volumes",
                "hooks_dir": [f"{folder}/hooks"],
            },
            "engine.runtimes": {"under-test": [runtime]},
            "network": {"network_config_dir": f"{folder}/networks"},
        }
        # What JSON writes of texts and lists of texts is TOML too.
        return "".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in each.items())
            for name, each in sections.items()
        )

    @property
    def environment(self) -> dict[str, str]:
        """What points podman, and the processes it starts, at this configuration."""
        return {
            "CONTAINERS_CONF": f"{self.folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf",
        }

    def __call__(
        self, *words: str | Path, check: bool = True, timeout_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `podman WORDS`."""
        return self.host.run(
            ["podman", *words], check=check, env=self.environment, timeout_seconds=timeout_seconds
        )

    def says(self, *words: str | Path) -> str:
        """What a command that must succeed prints, without the last line's end."""
        return self(*words).stdout.rstrip("\n")

    def start(self, *command: str, options: Sequence[str | Path] = ()) -> str:
        """Run a container in the background (default: one that sleeps); return its id."""
        return self.says("run", "-d", *options, IMAGE, *(command or ("sleep", "10000")))

    def run(
        self, *command: str, options: Sequence[str | Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a container in the foreground to its end, whatever that is."""
        return self("run", "--rm", *options, IMAGE, *command, check=False)

    def shows(self, script: str, *options: str | Path) -> str:
        """What `sh -c SCRIPT` prints in a container of its own that must succeed."""
        return self.says("run", "--rm", *options, IMAGE, "sh", "-c", script)

    def inspect(self, name: str, template: str) -> str:
        """One of the things podman knows about a container."""
        return self.says("inspect", "--format", template, name)

    def terminal(self, *words: str, size: tuple[int, int] = (24, 80)) -> Terminal:
        """Run `podman WORDS` with a terminal in front of it."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return Terminal(self.host, ["env", *settings, "podman", *words], size)

    def remove_everything(self) -> None:
        """Remove every pod, container and network."""
        for words in (["pod", "rm"], ["rm"]):
            removal = [*words, "--force", "--all", "--time", "0"]
            wait_until(
                lambda removal=removal: self._removes(removal),
                f"podman {' '.join(removal)} succeeds",
            )
        self("network", "prune", "--force")
        wait_until(self._removes_groups_of_pods, "the groups of pods are empty")

    def _removes(self, removal: Sequence[str]) -> bool:
        # podman's own clean-up of a container that ends may hold its /dev/shm a moment
        # longer: with `--userns auto`, under runc as often. Nothing else is forgiven.
        done = self(*removal, check=False)
        assert done.returncode == 0 or "device or resource busy" in done.stderr, done.stderr
        return done.returncode == 0

    def _removes_groups_of_pods(self) -> bool:
        # podman makes a pod's group in every hierarchy, and removes it from those with a
        # controller: in these two it stays under runc too.
        groups = "/sys/fs/cgroup/systemd/libpod_parent /sys/fs/cgroup/unified/libpod_parent"
        pods = f"find {groups} -mindepth 1 -maxdepth 1 -type d ! -name 'libpod-*' ! -name conmon"
        self.host.run(["sh", "-c", f"{pods} -exec rmdir {{}} + 2>/dev/null"], check=False)
        return not self.host.run(["sh", "-c", pods], check=False).stdout
