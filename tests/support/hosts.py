"""Hosts on this machine: what `migrate` moves containers between.

Lives here: `Site`, which makes hosts, a client and the switch that joins them.
A host is a set of namespaces (mount, uts, ipc, net, pid, cgroup) with a process
1 of its own that reaps, its own /run, /srv, /var/lib/migrate, ~/.ssh and
/dev/shm, its own cgroup mounts, and its own sshd with its own host key; the
machine's other files are read-only in it, but for /tmp and the checkout. Each
lets the others in by key and knows their host keys; their names are in each
one's ~/.ssh/config.

    with Site() as site:
        site.host1.run(["ssh", "host2", "hostname"])

                      switch: bridge `wire`
       ┌──────────────────┼──────────────────┐
     eth0               eth0               eth0
      br0 10.77.0.1      br0 10.77.0.2      br0 10.77.0.100
     host1              host2              client

A container's veth ends on its host's `br0`, so its address can move with it.
No device of the machine is touched: both ends of every link are made in their
own namespaces. Leaving the block takes everything down, whatever happened.

Must not live here: pytest, so that demo and benchmarks can use it too.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from tests.support import ssh
from tests.support.cgroups import Nest
from tests.support.folders import CHECKOUT, PRIVATE_FOLDERS, ROOT_HOME, mountpoint, writable_folders
from tests.support.processes import CommandError, Process, Spawner, pid_of

SEARCH_PATH = (
    f"{CHECKOUT}/.venv/bin:{CHECKOUT}/.prefix/sbin:/usr/local/sbin:/usr/local/bin"
    ":/usr/sbin:/usr/bin:/sbin:/bin"
)
_SERIAL = itertools.count()
ENVIRONMENT = {"PATH": SEARCH_PATH, "HOME": ROOT_HOME, "LANG": "C.UTF-8", "TERM": "xterm"}


class Host:
    """One host; made by `Site`.

    Attributes:
        name: its host name.
        address: its IPv4 address on the wire.
        pid: its first process, as numbered here.
        scratch: where its private folders and logs are kept.
    """

    def __init__(
        self,
        name: str,
        address: str,
        scratch: Path,
        *,
        only_v2: bool = False,
        ahead_seconds: int = 0,
    ) -> None:
        self.name = name
        self.address = address
        self.scratch = scratch
        self.pid = 0
        self.nest = Nest(f"host-{next(_SERIAL)}-{name}")
        self._only_v2 = only_v2
        self._ahead_seconds = ahead_seconds
        self._spawner: Spawner | None = None

    def cgroup_mounts(self) -> list[tuple[str, str, str]]:
        """Return (mount point, type, options) of each control group tree in this host."""
        return self.nest.mounts(only_v2=self._only_v2)

    def folder(self, path: str) -> Path:
        """Return where the host's file `path` can be reached from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    @contextmanager
    def up(self, binds: Sequence[tuple[str, str]] = ()) -> Iterator[Self]:
        """Be there for the length of the block."""
        with ExitStack() as stack:
            self.nest.create()
            stack.callback(self._take_down_cgroups)
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(near.close)
            init = self._start_init(far, binds)
            stack.callback(_end_init, near, init)
            far.close()
            self._spawner = Spawner(near)
            _, pidfd = self._spawner.receive()
            self.pid = pid_of(pidfd)
            os.close(pidfd)
            self.nest.settle()
            yield self

    def _start_init(
        self, far: socket.socket, binds: Sequence[tuple[str, str]]
    ) -> subprocess.Popen[bytes]:
        """Start process 1; what joins the cgroups before it unshares has them as its root."""
        private = [(str(self.scratch / name), path) for name, path in PRIVATE_FOLDERS.items()]
        for folder, _ in private:
            os.makedirs(folder, mode=0o700)
        plan = {
            "cgroups": self.cgroup_mounts(),
            "binds": [*private, *binds],
            "writable": writable_folders(self.scratch),
        }
        tops = [str(top / "cgroup.procs") for top in self.nest.tops.values()]
        join = 'for group in $GROUPS_TO_JOIN; do echo $$ >"$group" || exit 1; done; exec "$@"'
        unshare = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        if self._ahead_seconds:
            ahead = str(self._ahead_seconds)
            unshare += ["--time", "--monotonic", ahead, "--boottime", ahead]
        unshare += ["--fork", "--kill-child=KILL", "--propagation", "private", "--"]
        init = [sys.executable, "-m", "tests.support.host_init", self.name]
        with open(self.scratch / "init.log", "wb") as log:
            return subprocess.Popen(
                ["sh", "-c", join, "sh", *unshare, *init, str(far.fileno()), json.dumps(plan)],
                env={**ENVIRONMENT, "PYTHONPATH": str(CHECKOUT), "GROUPS_TO_JOIN": " ".join(tops)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[far.fileno()],
                start_new_session=True,  # Ctrl-C is for whoever runs the block
            )

    def _take_down_cgroups(self) -> None:
        self.nest.kill()
        self.nest.remove()

    # --- processes ---------------------------------------------------------------

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        stdin: int | Any = None,
        stdout: int | Any = None,
        stderr: int | Any = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> Process:
        """Start a process in this host.

        Args:
            argv: the program, looked up in the host's PATH, and its arguments.
            stdin: a descriptor or a file; /dev/null by default, as the other two.
            stdout: the same.
            stderr: the same.
            env: added to the host's own small environment.
            cwd: a folder in the host.
        """
        if self._spawner is None:
            message = f"{self.name} is not up"
            raise CommandError(message)
        with open(os.devnull, "r+b") as nothing:
            stdio = [
                nothing.fileno() if end is None else end if isinstance(end, int) else end.fileno()
                for end in (stdin, stdout, stderr)
            ]
            text = [os.fspath(part) for part in argv]
            return self._spawner.start(text, {**ENVIRONMENT, **(env or {})}, cwd, stdio)

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        text_in: str | None = None,
        check: bool = True,
        timeout_seconds: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it wrote.

        Its output goes to files, not to a pipe: a container it leaves running
        keeps them without anyone waiting for their end.

        Raises:
            CommandError: it failed, and `check` is set.
            TimeoutError: it did not end in time; it was killed.
        """
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            stdin.write((text_in or "").encode())
            stdin.seek(0)
            with self.popen(
                argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd
            ) as process:
                try:
                    status = process.wait(timeout_seconds)
                except TimeoutError:
                    process.kill()
                    message = f"{self.name}: {argv} did not end: {_text(stdout)}{_text(stderr)}"
                    raise TimeoutError(message) from None
            done = subprocess.CompletedProcess(
                [os.fspath(part) for part in argv], status, _text(stdout), _text(stderr)
            )
        if check and status:
            command = " ".join(done.args)
            message = f"{self.name}: {command}: exit status {status}\n{done.stdout}{done.stderr}"
            raise CommandError(message)
        return done

    def run_detached(self, argv: Sequence[str | os.PathLike[str]], *, cwd: str = "/") -> None:
        """Run a command that leaves a container behind, all three descriptors at /dev/null.

        A container that inherited the files of `run` could not be checkpointed:
        they have no name on any host.

        Raises:
            CommandError: it failed; what it said is lost, unless `--log` keeps it.
        """
        with self.popen(argv, cwd=cwd) as process:
            status = process.wait()
        if status:
            message = f"{self.name}: {' '.join(map(str, argv))}: exit status {status}"
            raise CommandError(message)

    def ip(self, *commands: str) -> None:
        """Run `ip` commands in one go, each written without the `ip`."""
        self.run(["ip", "-batch", "-"], text_in="\n".join(commands) + "\n")

    # --- network -----------------------------------------------------------------

    def cut(self) -> None:
        """Take this host off the wire, as a pulled cable does."""
        self.ip("link set eth0 down")

    def mend(self) -> None:
        """Put it back on the wire."""
        self.ip("link set eth0 up")

    def add_network(self, name: str, address: str) -> str:
        """Make the network namespace /run/netns/NAME with `eth0` at `address`/24 on br0.

        Returns:
            Its path in the host, for a namespace that config.json joins.
        """
        veth = f"v-{name}"[:15]
        self.run(["ip", "netns", "add", name])
        self.ip(
            f"link add {veth} type veth peer name eth0 netns {name}",
            f"link set {veth} master br0 up",
        )
        self.run(
            ["ip", "-netns", name, "-batch", "-"],
            text_in=f"link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n",
        )
        return f"/run/netns/{name}"

    def remove_network(self, name: str) -> None:
        """Take away what `add_network`, or a migration that brought it, made."""
        self.run(["ip", "netns", "delete", name])


class Site:
    """Hosts, a client and the switch between them, for the length of a `with` block.

    Args:
        names: the hosts' names, at 10.77.0.1 and on.
        layout: cgroups as on this machine, or version 2 alone.
        scratch: a folder for what the hosts write; one of its own by default.
        ahead: seconds by which a host, by name, was booted before this machine: it is in
            a time namespace with that offset.
    """

    def __init__(
        self,
        names: Sequence[str] = ("host1", "host2"),
        *,
        layout: Literal["machine", "v2"] = "machine",
        scratch: Path | None = None,
        ahead: Mapping[str, int] | None = None,
    ) -> None:
        self._ahead = ahead or {}
        self.names = list(names)
        self.hosts: dict[str, Host] = {}
        self._layout = layout
        self._scratch = scratch
        self._stack = ExitStack()

    def __getattr__(self, name: str) -> Host:
        """Return the host of that name: site.host1, site.client, site.switch."""
        try:
            return self.__dict__["hosts"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for path in PRIVATE_FOLDERS.values():
                stack.enter_context(mountpoint(path))
            scratch = self._scratch
            if scratch is None:
                scratch = Path(tempfile.mkdtemp(prefix="migrate-site-"))
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            accounts = ssh.write_accounts(scratch)
            numbers = [*range(1, len(self.names) + 1), 100, 254]
            for name, number in zip([*self.names, "client", "switch"], numbers, strict=True):
                (scratch / name).mkdir()
                host = Host(
                    name,
                    f"10.77.0.{number}",
                    scratch / name,
                    only_v2=self._layout == "v2",
                    ahead_seconds=self._ahead.get(name, 0),
                )
                self.hosts[name] = stack.enter_context(host.up(accounts))
            self._wire()
            reachable = [self.hosts[name] for name in self.names]
            ssh.introduce(reachable, [*reachable, self.client])
            for host in reachable:
                stack.enter_context(ssh.server(host, SEARCH_PATH))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.hosts.clear()

    def _wire(self) -> None:
        """Join all hosts by the switch; both ends of each link are born where they stay."""
        self.switch.ip("link set lo up", "link add wire type bridge forward_delay 0")
        self.switch.ip("link set wire up")
        for name in [*self.names, "client"]:
            host = self.hosts[name]
            port = f"to-{name}"[:15]
            link = f"link add {port} netns {self.switch.pid} type veth peer eth0 netns {host.pid}"
            subprocess.run(["ip", *link.split()], check=True)
            self.switch.ip(f"link set {port} master wire up")
            host.ip(
                "link set lo up",
                "link add br0 type bridge forward_delay 0",
                "link set eth0 master br0 up",
                "link set br0 up",
                f"address add {host.address}/24 dev br0",
                f"address add fd77::{host.address.rsplit('.', 1)[1]}/64 dev br0 nodad",
            )


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


def _end_init(control: socket.socket, init: subprocess.Popen[bytes]) -> None:
    """Let process 1 see that nobody needs it, and wait until its namespaces are gone."""
    control.close()
    try:
        init.wait(10)
    except subprocess.TimeoutExpired:
        init.kill()
        init.wait()


def wait_until(claim: Any, what: str, timeout_seconds: float = 10) -> Any:
    """Poll `claim` until it returns something true, and return that."""
    deadline = time.monotonic() + timeout_seconds
    while not (result := claim()):
        if time.monotonic() > deadline:
            message = f"waited {timeout_seconds} s in vain: {what}"
            raise TimeoutError(message)
        time.sleep(0.005)
    return result
