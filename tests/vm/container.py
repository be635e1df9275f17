"""A container that moves between the machines, watched from the third, and judged.

Lives here: the bundle made by hand, the connection, and a migration's promises as one
check: one incarnation, no tick lost or told twice, the connection kept, nothing left.
The counterpart for namespace hosts, which share a file system with the tests, is
`tests.live.moving`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.support.folders import CHECKOUT
from tests.vm.bundles import make_bundle
from tests.vm.machines import Machine, Pair

ID = "mybusybox"
BUNDLE = f"/srv/{ID}"
ADDRESS = "192.168.56.50"
PORT = 7000
AGENT = "/srv/agent"
JOURNALS = "/var/lib/migrate"

NETWORK = f"""
set -eu
ip netns add {ID}
ip link add v-{ID} type veth peer name eth0 netns {ID}
ip link set v-{ID} master br0 up
ip -netns {ID} link set lo up
ip -netns {ID} address add {ADDRESS}/24 dev eth0
ip -netns {ID} link set eth0 up
"""
LEFTOVERS = f"""
ls -d {JOURNALS}/source/* {JOURNALS}/destination/* /run/migrate/~migrations/* \
    /run/migrate/*/migration 2>/dev/null
ps -eo args | grep -E 'criu|migrate agent' | grep -v grep
true
"""
# Whatever still moves it, or has stopped itself at a record, ends first.
CLEANED = f"""
pkill -KILL -f '[/]usr/local/bin/migrate'
migrate recover {ID} >/dev/null 2>&1
migrate delete --force {ID} 2>/dev/null
ip netns delete {ID} 2>/dev/null
rm -rf /srv/* {JOURNALS}/* /run/migrate/~migrations
true
"""

Where = Literal["host1", "host2"]


class Container:
    """One that begins on host1; made by `container_of`."""

    def __init__(self, pair: Pair, report: Path) -> None:
        self.pair = pair
        self.host1, self.host2 = pair.host1, pair.host2
        self._report = report
        self._watcher: subprocess.Popen[bytes] | None = None

    # --- making and doing ---

    def create(self, *, user: tuple[int, int] = (0, 0)) -> None:
        """Make bundle and container on host1, start it, and connect to it from here.

        Args:
            user: uid and gid of its process, to whom its root file system belongs.
        """
        host = self.host1
        host.run(NETWORK)

        def changed(config: dict[str, Any]) -> None:
            for namespace in config["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = f"/run/netns/{ID}"
            config["process"]["user"] = {"uid": user[0], "gid": user[1]}

        make_bundle(host, BUNDLE, ["payload", "--log", "/log", "--port", str(PORT)], changed)
        host.run(["chown", "-R", f"{user[0]}:{user[1]}", f"{BUNDLE}/rootfs"])
        host.run_detached(["migrate", "create", "--bundle", BUNDLE, ID])
        host.run(["migrate", "start", ID])
        self._watch()

    def _watch(self) -> None:
        # Another container had the address, with another hardware address.
        subprocess.run(["ip", "neighbour", "flush", "dev", "wire"], check=True)
        command = [sys.executable, "-m", "tests.support.connection"]
        self._watcher = subprocess.Popen(
            [*command, ADDRESS, str(PORT), self._report], cwd=CHECKOUT, stdin=subprocess.DEVNULL
        )
        eventually(lambda: self._report.exists() and self.seen()["numbers"] > 50, "numbers arrive")

    def live(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `migrate live` on host1."""
        command = ["migrate", "live", ID, "--to", "host2", *options]
        return self.host1.run(command, check=check, timeout_seconds=200)

    @contextmanager
    def stopped_at(self, place: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `migrate live` until a side has stopped itself at a record of its journal.

        Args:
            place: as MIGRATE_FAULT has it, without what is to be done.
        """
        fault = f"MIGRATE_FAULT={place}:stop"
        armed = f"rm {AGENT}.armed 2>/dev/null && export {fault}"
        agent = f'#!/bin/sh\n{armed}\nexec migrate "$@"\n'
        self.host2.run(f"cat >{AGENT} && chmod 755 {AGENT} && touch {AGENT}.armed", text_in=agent)
        command = f"{fault} migrate live {ID} --to host2 --remote-command {AGENT}"
        machine = self.host1 if place.startswith("source") else self.host2
        output = self.pair.scratch / "live"
        process = self.host1.popen(command, output)
        try:
            eventually(
                lambda: is_stopped(machine) or process.poll() is not None, f"{place} is reached"
            )
            assert process.poll() is None, output.read_text()
            yield process
        finally:
            process.kill()
            process.wait()

    # --- looking ---

    def status(self, machine: Machine) -> str:
        """Return what `migrate state` says there, or "absent"."""
        answer = machine.run(["migrate", "state", ID], check=False)
        return json.loads(answer.stdout)["status"] if answer.returncode == 0 else "absent"

    def where(self) -> list[str]:
        """Return the machines on which it runs."""
        machines = self.pair.machines.values()
        return [machine.name for machine in machines if self.status(machine) == "running"]

    def seen(self) -> dict[str, Any]:
        """Return what the connection has seen so far."""
        return json.loads(self._report.read_text())  # type: ignore[no-any-return]

    def log(self, machine: Machine) -> list[str]:
        """Return the whole lines of its log there; none where there is none."""
        answer = machine.run(["cat", f"{BUNDLE}/rootfs/log"], check=False)
        return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []

    def leftovers(self) -> list[str]:
        """Return what a migration keeps while it is unfinished."""
        return [
            f"{machine.name}: {line}"
            for machine in self.pair.machines.values()
            for line in machine.run(LEFTOVERS).stdout.splitlines()
        ]

    # --- judging ---

    def must_run_on(self, name: Where) -> None:
        """Check every promise: here and only here, not a tick lost, the connection kept."""
        winner, loser = self.host1, self.host2
        if name == "host2":
            winner, loser = loser, winner
        assert self.where() == [name], self.describe()
        assert self.status(loser) == "absent"
        ticks = self.seen()["last"]
        eventually(lambda: self.seen()["last"] > ticks + 100, "it goes on")
        seen = self.seen()
        assert seen["error"] == ""
        assert seen["out_of_sequence"] == 0
        assert seen["numbers"] == seen["last"] - seen["first"] + 1
        lines = self.log(winner)
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        others = self.log(loser)
        assert others == lines[: len(others)]
        assert not self.leftovers()

    def must_run_nowhere(self) -> None:
        """Check that it is gone, as what ran on a machine that was cut off is, and all of it."""
        assert self.where() == [], self.describe()
        assert not self.leftovers()

    def describe(self) -> str:
        """Return where everything is, for a message."""
        states = [f"{each.name} {self.status(each)}" for each in self.pair.machines.values()]
        return f"{states}, left {self.leftovers()}, seen {self.seen()}"

    def remove(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        if self._watcher is not None:
            self._watcher.send_signal(signal.SIGTERM)
            self._watcher.wait(10)
        self._report.unlink(missing_ok=True)
        for machine in self.pair.machines.values():
            machine.run(CLEANED)


@contextmanager
def container_of(pair: Pair) -> Iterator[Container]:
    """Give a container that is not made yet, and take it away at the end."""
    container = Container(pair, pair.scratch / "report")
    try:
        yield container
    finally:
        container.remove()


def is_stopped(machine: Machine) -> bool:
    """Whether a program of ours has stopped itself there."""
    lines = machine.run(["ps", "-eo", "stat=,args="]).stdout.splitlines()
    return any(line.startswith("T") and "bin/migrate" in line for line in lines)


def eventually(claim: Callable[[], object], what: str, timeout_seconds: float = 240) -> None:
    """Wait until a claim holds; an emulated machine takes its time."""
    deadline = time.monotonic() + timeout_seconds
    while not claim():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s in vain: {what}"
        time.sleep(0.1)
