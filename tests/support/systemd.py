"""A machine whose first process is systemd, within one of the hosts.

Lives here: booting it, running commands in it, shutting it down.

    with Site(("host1",)) as site, booted(site.host1) as machine:
        machine.run(["systemctl", "is-system-running"])

It is a container of its own kind: new pid, mount, uts, ipc and cgroup namespaces around
systemd(1), with a control group in every tree and an empty /run.
On this machine's mix of v1 and v2 that is systemd's "hybrid" set-up, and with a host of
the layout "v2" the unified one. It boots in a third of a second: of its units only
D-Bus is wanted. A user's own service manager is started on demand, see `user`.

Commands are run in a scope of their own, as those of a session are.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.support.hosts import Host, wait_until

# A group in each tree of the host, joined; what is unshared afterwards has them as its root.
JOIN = r"""
set -eu
printf '%s\n' "$TREES" >/run/trees
while read -r top kind options; do
    mkdir -p "$top/machine"
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$top/machine/$file" ] || cat "$top/$file" >"$top/machine/$file" || true
    done
done </run/trees
while read -r top kind options; do echo $$ >"$top/machine/cgroup.procs"; done </run/trees
exec unshare --cgroup --pid --mount --uts --ipc --fork --kill-child=KILL --propagation private \
    sh -c "$BOOT"
"""

# What a machine's start brings along besides, such as debugfs mounted and modules loaded, is
# hidden from it. In what says by `container` that it is one, systemd changes no kernel settings.
BOOT = r"""
set -eu
umount -R /sys
mount -t sysfs sysfs /sys
printf '%s\n' "$TREES" | grep -q '^/sys/fs/cgroup ' ||
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
printf '%s\n' "$TREES" | while read -r top kind options; do
    mkdir -p "$top"
    mount -t "$kind" -o "${options:-defaults}" cgroup "$top"
done
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /lib/systemd/system/sysinit.target.wants
mkdir -p /run/systemd/system
printf '[Unit]\nWants=dbus.service\nAfter=dbus.service\n' >/run/systemd/system/tests.target
exec env -i PATH="$PATH" HOME=/ container=tests /lib/systemd/systemd --system \
    --unit=tests.target --log-target=console --log-level=info --show-status=0
"""

EMPTIED = ("-path", "*/machine*", "-type", "d", "-exec", "rmdir", "{}", ";")
NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--cgroup")


class Machine:
    """What `booted` makes.

    Attributes:
        host: the host it is in.
        pid: systemd's, as the host numbers it.
    """

    def __init__(self, host: Host, pid: int) -> None:
        self.host = host
        self.pid = pid

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout_seconds: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a scope of its own, see `Host.run`."""
        settings = [f"{name}={value}" for name, value in (env or {}).items()]
        scope = ["systemd-run", "--scope", "--quiet", "--collect", "--", "env", *settings]
        scope += [os.fspath(word) for word in argv]
        return self.enter(scope, check=check, timeout_seconds=timeout_seconds)

    def enter(
        self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command beside systemd's units, in none of its control groups."""
        into = ["nsenter", f"--target={self.pid}", *NAMESPACES, "--", *argv]
        return self.host.run(into, check=check, timeout_seconds=timeout_seconds)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit, as `systemctl show` prints them."""
        words = [f"--property={','.join(names)}", "--", unit]
        lines = self.enter(["systemctl", "show", *words]).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def units(self) -> set[str]:
        """Return the scopes and slices systemd has loaded."""
        words = ["--all", "--no-legend", "--plain", "--type=scope,slice"]
        lines = self.enter(["systemctl", "list-units", *words]).stdout.splitlines()
        return {line.split()[0] for line in lines}

    def groups(self) -> set[str]:
        """Return the control groups of every tree that are slices, scopes or below one."""
        words = ["find", "/sys/fs/cgroup", "-type", "d", "-path", "*.s*"]
        return set(self.enter(words).stdout.split())


@contextmanager
def booted(host: Host) -> Iterator[Machine]:
    """Be a machine with systemd for the length of the block."""
    log = host.scratch / "systemd.log"
    trees = "\n".join(" ".join(tree) for tree in host.cgroup_mounts())
    with (
        open(log, "wb") as output,
        host.popen(
            ["sh", "-c", JOIN], env={"BOOT": BOOT, "TREES": trees}, stdout=output, stderr=output
        ) as init,
    ):
        try:
            machine = Machine(host, _pid_of_systemd(host))
            wait_until(machine_is_up(machine), f"systemd is up: {log.read_text()}", 30)
            yield machine
        finally:
            init.kill()  # and with it, by --kill-child, systemd and all of its namespace
            host.run(["find", "/sys/fs/cgroup", "-depth", *EMPTIED])


def machine_is_up(machine: Machine) -> object:
    """Return a claim that systemd has done its first job."""

    def claim() -> bool:
        done = machine.enter(["systemctl", "is-system-running"], check=False)
        return done.stdout.strip() in {"running", "degraded"}

    return claim


def _pid_of_systemd(host: Host) -> int:
    """Return systemd's pid, as the host numbers it, once it is there."""

    def claim() -> int:
        found = host.run(["pgrep", "--exact", "systemd"], check=False).stdout.split()
        return int(found[0]) if found else 0

    return int(wait_until(claim, "systemd begins", 30))
