"""`python -m tests.vm BOX COMMAND...`: the two machines, for the length of a command.

The command is run in the network of the machines, with MIGRATE_SSH_CONFIG naming a file
by which `ssh -F` reaches host1 and host2.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import kernel
from tests.vm.machines import Pair


def main(box: str, *command: str) -> int:
    """Boot them, run the command, end them; return the command's exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Before the first thread: bridge and taps are made in a network of our own.
    kernel.unshare(kernel.CLONE_NEWNET)
    with (
        tempfile.TemporaryDirectory(prefix="migrate-vm-") as scratch,
        Pair(Path(box), Path(scratch)) as pair,
    ):
        env = {**os.environ, "MIGRATE_SSH_CONFIG": str(pair.ssh_config)}
        return subprocess.run(command, check=False, env=env).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
