"""A container that has something special, moved and looked at from inside.

Lives here: what the tests of a container's belongings share. Must not live here: the
promises of every migration (`tests.live.moving`).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.live.moving import read
from tests.support.bundle import Config, make_bundle
from tests.support.folders import CHECKOUT
from tests.support.hosts import Host, Site, wait_until

ID = "subject"
BUNDLE = "/srv/subject"
NETWORK_ADDRESS = "10.77.0.60"


class Subject:
    """A container on host1, made by `subject`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.host1: Host = site.host1
        self.host2: Host = site.host2
        self.networks: list[tuple[Host, str]] = []

    def make(
        self,
        args: Sequence[str],
        change: Callable[[Config], object] | None = None,
        *,
        network: str | None = None,
    ) -> None:
        """Write its bundle; the program of belongings.c is in it as /belongings."""
        make_bundle(self.host1.folder(BUNDLE), args, change=change, network=network)
        self.file("belongings").write_bytes(program().read_bytes())
        self.file("belongings").chmod(0o755)

    def start(self, *options: str) -> None:
        """Create and start it, detached."""
        self.host1.run_detached(["migrate", "run", "-d", "--bundle", BUNDLE, *options, ID])

    def live(self, *options: str, check: bool = True) -> CompletedProcess[str]:
        """Move it to host2."""
        return self.host1.run(["migrate", "live", ID, "--to", "host2", *options], check=check)

    def file(self, name: str, host: Host | None = None) -> Path:
        """Return where a file of its root file system is."""
        return (host or self.host1).folder(f"{BUNDLE}/rootfs/{name}")

    def wait_for(self, name: str, host: Host | None = None) -> str:
        """Wait until a file is there and not empty; return its text."""
        path = self.file(name, host)
        wait_until(lambda: read(path), f"{name} is written", 20)
        return read(path)

    def wait_until_ready(self) -> None:
        """Wait until /belongings has everything."""
        ready, failed = self.file("ready"), self.file("failed")
        wait_until(lambda: ready.exists() or failed.exists(), "it has everything", 20)
        assert not failed.exists(), failed.read_text()

    def status(self, host: Host) -> str:
        """Return what `migrate state` says there, or "absent"."""
        answer = host.run(["migrate", "state", ID], check=False)
        return str(json.loads(answer.stdout)["status"]) if answer.returncode == 0 else "absent"

    def pid(self, host: Host) -> int:
        """Return its first process's number in a host."""
        return int(json.loads(host.run(["migrate", "state", ID]).stdout)["pid"])

    def exec(self, host: Host, *command: str) -> str:
        """Run a command in it and return what it wrote."""
        return host.run(["migrate", "exec", ID, *command]).stdout

    def must_have_moved(self) -> None:
        """Check that it runs on host2 and nowhere else."""
        assert [self.status(each) for each in (self.host1, self.host2)] == ["absent", "running"]

    def verdicts(self, host: Host) -> dict[str, str]:
        """Let /belongings look at what it has; return what is wrong, by name."""
        self.file("check", host).touch()
        lines = self.wait_for("verdict", host).splitlines()
        found = dict(line.split(" ", 1) for line in lines)
        return {name: said for name, said in found.items() if said != "ok"}

    def remove(self) -> None:
        """Leave nothing of it."""
        for host in (self.host1, self.host2):
            host.run(["migrate", "recover", ID], check=False)
            host.run(["migrate", "delete", "--force", ID], check=False)
            host.run(["sh", "-c", "rm -rf /srv/* /var/lib/migrate/*"])
            for name in [path.name for path in host.folder("/run/netns").glob("*")]:
                host.remove_network(name)


@contextmanager
def subject(site: Site) -> Iterator[Subject]:
    """Give a container that is not made yet, and take it away at the end."""
    made = Subject(site)
    try:
        yield made
    finally:
        made.remove()


def program() -> Path:
    """Return the static program of belongings.c, compiled when the source is newer."""
    source = Path(__file__).with_name("belongings.c")
    path = CHECKOUT / ".prefix" / "belongings"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        flags = ["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", path, source], check=True)
    return path


def changed(config: Config, *path: str) -> Any:
    """Return the object at a path of config.json, made where it is missing."""
    at: Any = config
    for name in path:
        at = at.setdefault(name, {})
    return at
