"""Two machines with a kernel of their own each, under QEMU's software emulation.

Lives here: `Pair`, which boots the box of scripts/build-box twice and makes the machines
hosts by vagrant/provision, as Vagrant does with its own. They are on a wire with whoever
boots them, in the network namespace of that process: it must not be the machine's own.

    with Pair(box, scratch) as pair:
        pair.host1.run(["ssh", "host2", "hostname"])

         bridge `wire` 192.168.56.1, here
       ┌────────────┴────────────┐
      tap                       tap
      br0 192.168.56.11         br0 192.168.56.12
     host1                     host2

Keys are made before the machines are. A machine gets its own host key, and the key that
lets this process in, as a systemd credential through QEMU's firmware interface: so the
very first connection already knows whom it speaks with.

Must not live here: pytest, so that the demo can be shown on these machines too.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from tests.support import payload
from tests.support.folders import CHECKOUT
from tests.support.processes import CommandError
from tests.support.ssh import make_key

ADDRESSES = {"host1": "192.168.56.11", "host2": "192.168.56.12"}
HERE = "192.168.56.1"
# Where root of the machine keeps its keys, as tmpfiles.d(5) writes the home of the caller.
LOGIN = "%h/.ssh"
MEMORY_MIB = 512
BOOT_SECONDS = 300
KERNEL_COMMAND = (
    "root=/dev/vda console=ttyS0 net.ifnames=0 quiet mitigations=off modprobe.blacklist=kvm_amd"
)
SOURCES = "/vagrant"

NETWORK = """\
[Match]
Name=eth0
[Network]
Address={address}/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
SSH_CONFIG = """\
Host {name}
    HostName {address}
    User root
    IdentityFile {folder}/id_ed25519
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
    ControlPath {folder}/connection-%h
    ConnectTimeout 5
    ServerAliveInterval 5
    LogLevel ERROR

"""


class Machine:
    """One of them; made by `Pair`.

    Attributes:
        name: its host name.
        address: on the wire.
    """

    def __init__(self, name: str, box: Path, folder: Path) -> None:
        self.name = name
        self.address = ADDRESSES[name]
        self._box = box
        self._folder = folder
        self._qemu: subprocess.Popen[bytes] | None = None
        self._master: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> str:
        """What its kernel and systemd have written to the serial line."""
        path = self._folder / f"{self.name}.console"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- power ---

    def make_disk(self, secrets: Path, allowed: str) -> None:
        """Give it a disk that begins as the box, and its first settings."""
        disk, backing = self._folder / f"{self.name}.qcow2", self._box / "root.img"
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b"]
        subprocess.run([*create, backing, disk], check=True)
        key = (secrets / self.name / "ssh_host_ed25519_key").read_bytes()
        files = {
            "/etc/ssh/ssh_host_ed25519_key": key,
            f"{LOGIN}/authorized_keys": (allowed + "\n").encode(),
        }
        lines = [f"d {LOGIN} 0700 root root"]
        lines += [
            f"f~ {path} 0600 root root - {base64.b64encode(content).decode()}"
            for path, content in files.items()
        ]
        (self._folder / f"{self.name}.tmpfiles").write_text("\n".join(lines) + "\n")
        network = NETWORK.format(address=self.address)
        (self._folder / f"{self.name}.network").write_text(network)

    def start(self) -> None:
        """Switch it on; its disk is as it was left."""
        number = list(ADDRESSES).index(self.name) + 1
        credentials = {"tmpfiles.extra": "tmpfiles", "network.network.10-wire": "network"}
        command: list[str | os.PathLike[str]] = [
            *("qemu-system-x86_64", "-name", self.name, "-machine", "q35,sata=off", "-nodefaults"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
            *("-display", "none", "-no-reboot"),
            *("-serial", f"file:{self._folder}/{self.name}.console"),
            *("-kernel", self._box / "vmlinuz", "-initrd", self._box / "initrd"),
            *("-append", KERNEL_COMMAND),
            # A flush of the machine is one of the disk here: what it has written lasts.
            *("-drive", f"file={self._folder}/{self.name}.qcow2,if=virtio,cache=writeback"),
            *("-netdev", f"tap,id=wire,ifname={self.name},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:00:56:1{number}"),
            *("-device", "virtio-rng-pci"),
        ]
        for credential, kind in credentials.items():
            file = f"{self._folder}/{self.name}.{kind}"
            command += ["-fw_cfg", f"name=opt/io.systemd.credentials/{credential},file={file}"]
        with open(self._folder / f"{self.name}.qemu", "wb") as log:
            self._qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._connect()

    def stop(self) -> None:
        """End QEMU at once, as a power cut ends a machine."""
        for process in (self._master, self._qemu):
            if process is not None:
                process.kill()
                process.wait()
        self._master = self._qemu = None
        # What was killed leaves its socket behind, and the next would not take the name.
        (self._folder / f"connection-{self.address}").unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop its clock and processor."""
        assert self._qemu is not None
        self._qemu.send_signal(signal.SIGSTOP)

    def _connect(self) -> None:
        """Wait for its sshd, and keep one connection: a new one costs a second here."""
        deadline = time.monotonic() + BOOT_SECONDS
        command = [*self._ssh("-M", "-N"), self.name]
        log_path = self._folder / f"{self.name}.ssh"
        while True:
            with open(log_path, "wb") as log:
                self._master = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            while self._master.poll() is None and time.monotonic() < deadline:
                if self._is_connected():
                    return
                time.sleep(0.2)
            assert self._qemu is not None
            if self._qemu.poll() is not None or time.monotonic() > deadline:
                self.stop()
                message = f"{self.name} does not answer: {log_path.read_text()}\n{self.console}"
                raise CommandError(message)
            time.sleep(0.5)

    def _is_connected(self) -> bool:
        command = [*self._ssh("-O", "check"), self.name]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    # --- commands ---

    def _ssh(self, *options: str) -> list[str]:
        return ["ssh", "-F", f"{self._folder}/ssh_config", *options]

    def popen(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        """Start a command of its shell, with what it writes in a file here."""
        with open(output, "wb") as file:
            return subprocess.Popen(
                [*self._ssh(self.name), command], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def run(
        self,
        argv: Sequence[str] | str,
        *,
        text_in: str | bytes = "",
        check: bool = True,
        timeout_seconds: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or a line of its shell, and return what it wrote.

        Raises:
            CommandError: it failed, and `check` is set.
        """
        line = argv if isinstance(argv, str) else shlex.join(argv)
        done = subprocess.run(
            [*self._ssh(self.name), line],
            check=False,
            input=text_in.encode() if isinstance(text_in, str) else text_in,
            capture_output=True,
            timeout=timeout_seconds,
        )
        answer = subprocess.CompletedProcess(
            [line],
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and answer.returncode:
            message = f"{self.name}: {line}: exit status {answer.returncode}\n"
            raise CommandError(message + answer.stdout + answer.stderr)
        return answer

    def run_detached(self, argv: Sequence[str]) -> None:
        """Run a command that leaves a container behind, which keeps none of our pipes."""
        self.run(f"{shlex.join(argv)} </dev/null >/dev/null 2>&1")

    def provision(self, secrets: Path, checkout: bytes) -> None:
        """Bring the checkout and make it a host, as Vagrant does."""
        self.run(f"tar -C {SOURCES} -xz --no-same-owner", text_in=checkout)
        keys = subprocess.run(
            ["tar", "-C", secrets / self.name, "-c", "."], check=True, capture_output=True
        ).stdout
        self.run("mkdir -p /run/keys && tar -C /run/keys -x", text_in=keys)
        hosts = " ".join(f"{name} {address}" for name, address in ADDRESSES.items())
        self.run(
            f"sh {SOURCES}/vagrant/provision {self.name} /run/keys {hosts} && rm -r /run/keys",
            timeout_seconds=300,
        )


class Pair:
    """Both, for the length of a `with` block.

    Args:
        box: what scripts/build-box made.
        scratch: a folder for disks, keys and logs.

    Attributes:
        ssh_config: a file by which `ssh -F` reaches host1 and host2.
    """

    def __init__(self, box: Path, scratch: Path) -> None:
        self.scratch = scratch
        self.ssh_config = scratch / "ssh_config"
        self.machines = {name: Machine(name, box, scratch) for name in ADDRESSES}
        self.host1, self.host2 = self.machines.values()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._wire()
            secrets = self._keys()
            for machine in self.machines.values():
                stack.callback(machine.stop)
            together(each.start for each in self.machines.values())
            checkout = _checkout()
            together(partial(each.provision, secrets, checkout) for each in self.machines.values())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _keys(self) -> Path:
        secrets = self.scratch / "keys"
        hosts = [word for pair in ADDRESSES.items() for word in pair]
        subprocess.run([CHECKOUT / "vagrant" / "keys", secrets, *hosts], check=True)
        allowed = make_key(self.scratch / "id_ed25519", "tests")
        known = (secrets / "host1" / "known_hosts").read_text()
        (self.scratch / "known_hosts").write_text(known)
        self.ssh_config.write_text(
            "".join(
                SSH_CONFIG.format(name=name, address=address, folder=self.scratch)
                for name, address in ADDRESSES.items()
            )
        )
        for machine in self.machines.values():
            machine.make_disk(secrets, allowed)
        return secrets

    @staticmethod
    def _wire() -> None:
        commands = [
            "link set lo up",
            "link add wire type bridge forward_delay 0",
            f"address add {HERE}/24 dev wire",
            "link set wire up",
        ]
        for name in ADDRESSES:
            commands += [f"tuntap add dev {name} mode tap", f"link set {name} master wire up"]
        text = "\n".join(commands) + "\n"
        subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)


def _checkout() -> bytes:
    """Return the working tree, and the payload that is built here, as a tar archive."""
    payload.binary()
    left_out = ("./.git", "./.venv", "./.cache", "./bench/results", "__pycache__", ".*_cache")
    excludes = [f"--exclude={pattern}" for pattern in left_out]
    # Of what setup made here nothing is of use on another Debian.
    prefix = [
        "--exclude=./.prefix/*/*",
        "--exclude=./.prefix/setup.log",
        "--exclude=./.prefix/lock",
    ]
    command = ["tar", "-C", str(CHECKOUT), "-cz", *excludes, *prefix, "--exclude=.hypothesis", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def together(actions: Iterable[Callable[[], None]]) -> None:
    """Do several things at once, and raise what one of them raised."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()
