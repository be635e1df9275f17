"""A run of the tests, shut off from the machine it runs on.

Lives here: moving this process into cgroups, mounts and a network of its own.
What a test forgets stays in there and is found (`tests.support.leaks`); two runs
at once, or other users of the machine, do not meet. The machine's files are
read-only but for the folders tests are meant to write to, so that a fault in what is
tested, or in a test, cannot harm it. /run is an empty tmpfs, where CRIU keeps what it
learnt about the kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support import kernel
from tests.support.cgroups import Nest, mount_hierarchies
from tests.support.folders import PRIVATE_FOLDERS, mountpoint, writable_folders


@contextmanager
def isolated() -> Iterator[Nest]:
    """Be in namespaces and cgroups of one's own for the rest of this process's life.

    The cgroups are left and removed at the end of the block. Must be entered
    before the first thread, by root.
    """
    with ExitStack() as stack:
        for path in PRIVATE_FOLDERS.values():
            stack.enter_context(mountpoint(path))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="migrate-python-"))
        yield from _inside(Nest("tests"), scratch)


def _offer_interpreter(scratch: str) -> None:
    """Put a writable copy of the system's interpreter where the interpreter is.

    Attacks try to overwrite it (CVE-2019-5736). The read-only root alone would refuse
    that, whatever the runtime does; so here is one that can be spoilt.
    """
    program = os.path.realpath("/usr/bin/python3")
    copy = shutil.copy2(program, scratch)
    kernel.mount(copy, program, None, kernel.MS_BIND)


def _inside(nest: Nest, scratch: str) -> Iterator[Nest]:
    nest.create()
    mounts = nest.mounts()
    held = nest.hold()
    namespace = os.open("/proc/self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    held.append(namespace)
    try:
        nest.join(os.getpid())
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWCGROUP | kernel.CLONE_NEWNET)
        nest.settle()
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        mount_hierarchies(mounts)
        for path in ("/run", *PRIVATE_FOLDERS.values()):
            kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
        kernel.make_root_read_only(writable_folders())
        _offer_interpreter(scratch)
        os.mkdir("/run/lock", mode=0o1777)
        # `criu check`, and every test on 127.0.0.1, want it up.
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield nest
    finally:
        kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND)
        for path in PRIVATE_FOLDERS.values():
            kernel.umount2(path, kernel.MNT_DETACH)
        # Where cgroup2 is mounted with nsdelegate, as systemd does, nobody leaves a control
        # group namespace from within.
        kernel.setns(namespace, kernel.CLONE_NEWCGROUP)
        nest.leave(os.getpid())
        nest.kill()
        nest.remove()
        for fd in held:
            os.close(fd)
