"""An sshd of the tests' own, on a high port of 127.0.0.1.

Lives here: its keys, its configuration, its process, and the client's files
that go with it. Used by the tests of `migrate.transport`.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrate.transport.ssh import Options, Target

_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_ed25519
HostKey {folder}/host_rsa
PidFile none
PermitRootLogin prohibit-password
AuthenticationMethods publickey
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 100
MaxAuthTries 4
LogLevel ERROR
"""

_CLIENT = """\
Host server
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/client
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
"""


class Sshd:
    """A running sshd, and a client configuration that knows it as `server`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.config = folder / "config"
        self.known_hosts = folder / "known_hosts"
        self.target = Target("server")

    @property
    def options(self) -> Options:
        """What makes `connect` use this sshd's client files."""
        return Options(config_file=str(self.config), timeout_seconds=5.0)

    @property
    def host_key(self) -> tuple[str, str]:
        """Kind and base64 of its ed25519 host key."""
        kind, encoded = (self.folder / "host_ed25519.pub").read_text().split()[:2]
        return kind, encoded

    def configure(self, *lines: str, port: int | None = None) -> Options:
        """Write a client configuration of a test's own, and return the options for it."""
        text = _CLIENT.format(port=port or self.port, folder=self.folder, user=_user())
        path = self.folder / f"config-{time.monotonic_ns()}"
        path.write_text("".join(f"{line}\n" for line in lines) + text)
        return Options(config_file=str(path), timeout_seconds=5.0)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def make_key(path: Path, kind: str = "ed25519", *, passphrase: str = "") -> str:
    """Make a key pair; return the public line."""
    size = ["-b", "2048"] if kind == "rsa" else []
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """Run an sshd with all its files in `folder`."""
    sshd = Sshd(folder, _free_port())
    host_key = make_key(folder / "host_ed25519")
    make_key(folder / "host_rsa", "rsa")
    (folder / "authorized_keys").write_text(make_key(folder / "client") + "\n")
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {host_key}\n")
    sshd.config.write_text(_CLIENT.format(port=sshd.port, folder=folder, user=_user()))
    config = folder / "sshd_config"
    config.write_text(_SERVER.format(port=sshd.port, folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
    # From 9.8 on sshd slows down whoever fails to log in; tests do so on purpose.
    calm = ["-o", "PerSourcePenalties=no"]
    probe = subprocess.run(
        [*command[:1], "-t", *command[3:], *calm], check=False, capture_output=True
    )
    if probe.returncode == 0:
        command += calm
    # So that it goes even where the tests are killed.
    mortal = ["setpriv", "--pdeathsig", "TERM", *command]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(mortal, stdout=log, stderr=log)
    try:
        _wait_for(sshd.port, process, folder / "log")
        yield sshd
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until sshd listens, without asking it.

    It counts its guests in its title, by which the check for leaks knows it.
    """
    deadline = time.monotonic() + 10
    title = Path(f"/proc/{process.pid}/cmdline")
    while b"[listener] 0 of" not in title.read_bytes() or not _is_listened_on(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text())
        time.sleep(0.01)


def _is_listened_on(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return any(
        local.endswith(f":{port:04X}") and state == "0A" for _, local, _, state, *_ in fields
    )
