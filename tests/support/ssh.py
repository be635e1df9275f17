"""The sshd of a host, and who knows whom.

Lives here: keys, known_hosts, the client's configuration and the server's, all in
a host's private folders. Used by `tests.support.hosts`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.folders import ROOT_HOME, SSH_FOLDER

if TYPE_CHECKING:
    from tests.support.hosts import Host
    from tests.support.processes import Process

SERVER_CONFIG = """\
HostKey {keys}/host_key
PidFile none
ListenAddress 0.0.0.0
ListenAddress ::
PermitRootLogin prohibit-password
AuthenticationMethods publickey
AuthorizedKeysFile {ssh}/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
X11Forwarding no
MaxStartups 100
LogLevel VERBOSE
SetEnv PATH={path}
Subsystem sftp internal-sftp
"""

CLIENT_CONFIG = """\
Host {name}
    HostName {address}
    User root
    IdentityFile ~/.ssh/id_ed25519
    UserKnownHostsFile ~/.ssh/known_hosts
    StrictHostKeyChecking yes

"""


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key pair without a passphrase and return its public line."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path.with_suffix(".pub").read_text().strip()


def write_accounts(folder: Path) -> list[tuple[str, str]]:
    """Write the hosts' account files and return what to mount them over.

    A locked root account, as some machines have it, would keep sshd from letting a
    key in; a root shell that reads someone's .bashrc would do who knows what.
    """
    passwd = folder / "passwd"
    passwd.write_text(
        "".join(
            f"root:x:0:0:root:{ROOT_HOME}:/bin/sh\n" if line.startswith("root:") else line
            for line in Path("/etc/passwd").read_text().splitlines(keepends=True)
        )
    )
    passwd.chmod(0o644)
    shadow = folder / "shadow"
    shadow.write_text("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
    shadow.chmod(0o600)
    folder.chmod(0o755)  # everyone must be able to read passwd
    return [(str(passwd), "/etc/passwd"), (str(shadow), "/etc/shadow")]


def introduce(servers: Sequence[Host], clients: Sequence[Host]) -> None:
    """Give every server a host key and every client a key of its own, and make all known."""
    known = ""
    config = ""
    for server in servers:
        key = make_key(server.scratch / "host_key", server.name).split()
        known += f"{server.name},{server.address} {key[0]} {key[1]}\n"
        config += CLIENT_CONFIG.format(name=server.name, address=server.address)
    authorized = ""
    for client in clients:
        folder = client.scratch / "ssh"
        authorized += make_key(folder / "id_ed25519", f"root@{client.name}") + "\n"
        (folder / "known_hosts").write_text(known)
        (folder / "config").write_text(config)
    for server in servers:
        (server.scratch / "ssh" / "authorized_keys").write_text(authorized)


@contextmanager
def server(host: Host, path: str) -> Iterator[Process]:
    """Run an sshd in the host, listening before the block starts.

    Args:
        host: where.
        path: PATH of what is started over SSH; it has the `migrate` of this checkout.
    """
    config = host.scratch / "sshd_config"
    config.write_text(SERVER_CONFIG.format(keys=host.scratch, ssh=SSH_FOLDER, path=path))
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
    # From 9.8 on sshd slows down whoever fails to log in; tests do so on purpose.
    calm = ["-o", "PerSourcePenalties=no"]
    if host.run([*command[:1], "-t", *command[3:], *calm], check=False).returncode == 0:
        command += calm
    with open(host.scratch / "sshd.log", "wb") as log:
        process = host.popen(command, stdout=log, stderr=log)
    with process:
        deadline = time.monotonic() + 10
        while not _listens(host):
            if process.poll() is not None or time.monotonic() > deadline:
                message = (host.scratch / "sshd.log").read_text()
                raise RuntimeError(message)
            time.sleep(0.005)
        yield process


def _listens(host: Host) -> bool:
    """Whether port 22 is listened on in the host's network."""
    table = Path(f"/proc/{host.pid}/net/tcp").read_text()
    return any(
        fields[1].endswith(":0016") and fields[3] == "0A"
        for fields in map(str.split, table.splitlines()[1:])
    )
