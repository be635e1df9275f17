"""A run of the tests, shut off from the machine it runs on.

Lives here: moving this process into cgroups, mounts and a network of its own.
What a test forgets stays in there and is found (`tests.support.leaks`); two runs
at once, or other users of the machine, do not meet. /run is an empty tmpfs, where
CRIU keeps what it learnt about the kernel.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import kernel
from tests.support.cgroups import Nest, mount_hierarchies


@contextmanager
def isolated() -> Iterator[Nest]:
    """Be in namespaces and cgroups of one's own for the rest of this process's life.

    The cgroups are left and removed at the end of the block. Must be entered
    before the first thread, by root.
    """
    nest = Nest("tests")
    nest.create()
    mounts = nest.mounts()
    held = nest.hold()
    try:
        nest.join(os.getpid())
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWCGROUP | kernel.CLONE_NEWNET)
        nest.settle()
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        mount_hierarchies(mounts)
        kernel.mount("tmpfs", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
        os.mkdir("/run/lock", mode=0o1777)
        # `criu check`, and every test on 127.0.0.1, want it up.
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield nest
    finally:
        nest.leave(os.getpid())
        nest.kill()
        nest.remove()
        for fd in held:
            os.close(fd)
