"""A container that is moved, watched from outside, and judged.

Lives here: the promises of a migration, as one check. The container counts into a log
in its root file system and to a TCP connection from a third place; both tell a repeat,
a gap, or a second incarnation.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Literal

from tests.support.bundle import Config, make_bundle
from tests.support.folders import CHECKOUT
from tests.support.hosts import Host, Site, wait_until
from tests.support.processes import Process

ID = "moved"
ADDRESS = "10.77.0.50"
PORT = 7000
BUNDLE = "/srv/moved"
AGENT = "/srv/agent"
REPORT = "/srv/moved-report"
PAYLOAD = ["payload", "--status", "/status", "--log", "/log", "--port", str(PORT)]

REFUSAL = """
table inet cutoff {
  chain in { type filter hook input priority 0; tcp dport 22 reject with tcp reset; }
  chain out { type filter hook output priority 0; tcp sport 22 reject; }
}
"""
WIPED = "/srv/* /run/migrate/* /run/migrate/~migrations /var/lib/migrate/*"

Where = Literal["host1", "host2"]


class Moved:
    """The container, which begins on host1; made by `moved`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.host1: Host = site.host1
        self.host2: Host = site.host2
        self._watcher: Process | None = None

    # --- making and doing ---

    def create(self, arguments: list[str] | None = None, change: Any = None) -> None:
        """Make and start it on host1, and connect to it from the client."""
        network = self.host1.add_network(ID, ADDRESS)
        # Another test's container had the address, with another hardware address.
        self.site.client.run(["ip", "neighbour", "flush", "all"])

        def changed(config: Config) -> None:
            config["process"]["args"] = [*PAYLOAD, *(arguments or [])]
            if change is not None:
                change(config)

        make_bundle(self.host1.folder(BUNDLE), network=network, change=changed)
        self.host1.run_detached(["migrate", "run", "-d", "--bundle", BUNDLE, ID])
        self._watch()

    def _watch(self) -> None:
        command = [sys.executable, "-m", "tests.support.connection", ADDRESS, str(PORT), REPORT]
        self._watcher = self.site.client.popen(command, env={"PYTHONPATH": str(CHECKOUT)})
        report = self.site.client.folder(REPORT)
        wait_until(lambda: report.exists() and self.seen()["numbers"] > 50, "numbers arrive", 30)

    def live(
        self,
        *options: str,
        fault: str = "",
        to: str = "host2",
        check: bool = True,
    ) -> CompletedProcess[str]:
        """Run `migrate live`, on both sides with a fault."""
        return self.host1.run(
            ["migrate", "live", ID, "--to", to, *self.with_fault(fault), *options],
            check=check,
            env={"MIGRATE_FAULT": fault} if fault else {},
        )

    def with_fault(self, fault: str) -> list[str]:
        """Return the options that give the first agent, not a later one, a fault too."""
        if not fault:
            return []
        agent = self.host2.folder(AGENT)
        agent.write_text(
            "#!/bin/sh\n"
            f"rm {AGENT}.armed 2>/dev/null && export MIGRATE_FAULT={fault}\n"
            'exec migrate "$@"\n'
        )
        agent.chmod(0o755)
        self.host2.folder(f"{AGENT}.armed").touch()
        return ["--remote-command", AGENT]

    def recover(self, host: Host | None = None, *, check: bool = True) -> CompletedProcess[str]:
        """Run `migrate recover` without any fault."""
        return (host or self.host1).run(["migrate", "recover", ID], check=check)

    @contextmanager
    def stopped_at(self, fault: str, *options: str) -> Iterator[Process]:
        """Run `migrate live` until a side has stopped itself at a record, then let it go on.

        Args:
            fault: with `stop`; without a side that stops nothing happens here.
        """
        side = fault.split(":", 1)[0]
        host = self.host1 if side == "source" else self.host2
        command = ["migrate", "live", ID, "--to", "host2", *self.with_fault(fault), *options]
        output = self.host1.folder("/srv/output")
        with (
            open(output, "wb") as file,
            self.host1.popen(
                command, stdout=file, stderr=file, env={"MIGRATE_FAULT": fault}
            ) as process,
        ):
            try:
                wait_until(lambda: stopped(host), f"{fault}: {read(output)}", 20)
                yield process
            finally:
                self.go_on()

    def go_on(self) -> None:
        """Let go on whatever has stopped itself."""
        for host in (self.host1, self.host2):
            for pid in stopped(host):
                host.run(["kill", "-CONT", str(pid)])

    def cut_off(self) -> None:
        """Have host2 refuse every packet of SSH, at once and until `reconnect`."""
        self.host2.run(["nft", "-f", "-"], text_in=REFUSAL)

    def reconnect(self) -> None:
        """Have host2 take SSH again."""
        self.host2.run(["nft", "delete", "table", "inet", "cutoff"], check=False)

    # --- looking ---

    def status(self, host: Host) -> str:
        """Return what `migrate state` says there, or "absent"."""
        answer = host.run(["migrate", "state", ID], check=False)
        return json.loads(answer.stdout)["status"] if answer.returncode == 0 else "absent"

    def where(self) -> list[str]:
        """Return the hosts on which it runs."""
        hosts = (self.host1, self.host2)
        return [host.name for host in hosts if self.status(host) == "running"]

    def seen(self) -> dict[str, Any]:
        """Return what the client has seen so far."""
        return json.loads(self.site.client.folder(REPORT).read_text())  # type: ignore[no-any-return]

    def log(self, host: Host) -> list[str]:
        """Return the whole lines of the container's log there; none where there is none."""
        path = host.folder(f"{BUNDLE}/rootfs/log")
        if not path.exists():
            return []
        return path.read_text().split("\n")[:-1]

    # --- judging ---

    def must_run_on(self, name: Where) -> None:
        """Check every promise: here and only here, not a tick lost, the connection kept."""
        winner, loser = self.host1, self.host2
        if name == "host2":
            winner, loser = loser, winner
        assert self.where() == [name], self.describe()
        assert self.status(loser) == "absent", self.describe()
        ticks = self.seen()["last"]
        wait_until(lambda: self.seen()["last"] > ticks + 100, f"it goes on: {self.describe()}", 20)
        seen = self.seen()
        assert seen["error"] == ""
        assert seen["out_of_sequence"] == 0
        assert seen["numbers"] == seen["last"] - seen["first"] + 1
        lines = self.log(winner)
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        others = self.log(loser)
        assert others == lines[: len(others)]
        assert len(others) < len(lines), "two incarnations have run"
        assert not self.leftovers(), self.describe()

    def leftovers(self) -> list[str]:
        """Return what a migration keeps while it is unfinished."""
        found = []
        for host in (self.host1, self.host2):
            for pattern in (
                "var/lib/migrate/source/*",
                "var/lib/migrate/destination/*",
                "run/migrate/~migrations/*",
                "run/migrate/*/migration",
            ):
                root = host.folder("/")
                found += [f"{host.name}: {path.name}" for path in root.glob(pattern)]
            found += [
                f"{host.name}: {line}"
                for line in host.run(["ps", "-eo", "args"]).stdout.splitlines()
                if "criu" in line or "migrate agent" in line
            ]
        return found

    def describe(self) -> str:
        """Return where everything is, for a message."""
        states = [f"{host.name} {self.status(host)}" for host in (self.host1, self.host2)]
        return f"{states}, left {self.leftovers()}, seen {self.seen()}"

    # --- the end ---

    def remove(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        if self._watcher is not None:
            self._watcher.signal(signal.SIGTERM)
            self._watcher.wait()
            self._watcher.close()
        self.go_on()
        self.reconnect()
        if self.leftovers():
            self.recover(check=False)
        for host in (self.host1, self.host2):
            host.run(["migrate", "delete", "--force", ID], check=False)
            host.run(["sh", "-c", f"rm -rf {WIPED}"])
            if host.folder(f"/run/netns/{ID}").exists():
                host.remove_network(ID)
        self.site.client.run(["rm", "-f", REPORT])


@contextmanager
def moved(site: Site) -> Iterator[Moved]:
    """Give a container that is not made yet, and take it away at the end."""
    container = Moved(site)
    try:
        yield container
    finally:
        container.remove()


def stopped(host: Host) -> list[int]:
    """Return the pids, in the host, of its programs of ours that were stopped."""
    lines = host.run(["ps", "-eo", "pid=,stat=,args="]).stdout.splitlines()
    found = [line.split(None, 2) for line in lines]
    return [int(pid) for pid, state, args in found if state[0] == "T" and "bin/migrate" in args]


def eventually(claim: Any, what: str, seconds: float = 10) -> None:
    """Wait until a claim holds."""
    wait_until(claim, what, seconds)


def pause_a_moment() -> None:
    """Give a container time to do what it must not do."""
    time.sleep(0.2)


def read(path: Path) -> str:
    """Return a file's text, "" where it is not."""
    return path.read_text() if path.exists() else ""
