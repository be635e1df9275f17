"""What tests/oci and tests/attacks share as fixtures: an image, a config, a runtime.

Lives here: the definitions; the conftest.py of either folder names those it uses.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import PROJECT, Config, Runtime, children

PR_SET_CHILD_SUBREAPER = 36
APPLETS = """
    awk basename cat chgrp chmod chown cut date dd df dirname echo env false find grep head hostname
    id ip kill ln ls mkdir mkfifo mknod mount mv nc nproc od pidof printf ps pwd readlink
    realpath rm rmdir sed seq setsid sh sleep sort stat stty sync sysctl tail test touch tr true tty
    umount uname wc whoami yes
"""
DIRECTORIES = "bin dev etc home/worker proc root sys tmp usr/bin var"
ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n",
    "etc/group": "root:x:0:\nworker:x:1000:\nstaff:x:50:worker\n",
}


@pytest.fixture(scope="session")
def image_tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system of a busybox image, as `docker export` would write it."""
    work = tmp_path_factory.mktemp("image")
    tree = work / "tree"
    for name in DIRECTORIES.split():
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    busybox = tree / "bin" / "busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    for applet in APPLETS.split():
        (tree / "bin" / applet).symlink_to("busybox")
    for name, text in ETC.items():
        (tree / name).write_text(text)
    path = work / "busybox.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tree, ".")
    return path


@pytest.fixture(scope="session")
def image(image_tarball: Path) -> Path:
    """The image unpacked once, to be copied from."""
    path = image_tarball.parent / "unpacked"
    path.mkdir()
    subprocess.run(["tar", "-C", str(path), "-xf", str(image_tarball)], check=True)
    return path


def default_config(command: str, work: Path) -> Config:
    """What `command spec` writes, without a terminal and with a writable root."""
    subprocess.run([command, "spec"], cwd=work, check=True)
    config: Config = json.loads((work / "config.json").read_text())
    config["process"]["terminal"] = False
    config["root"]["readonly"] = False
    return config


@contextlib.contextmanager
def lent(command: str, workspace: Path, image: Path, base_config: Config) -> Iterator[Runtime]:
    """A runtime with an empty state root; nothing of it may be left at the end."""
    criu_first = f"{PROJECT / '.prefix' / 'sbin'}:{os.environ['PATH']}"
    environment = {"PATH": criu_first, "HOME": "/root"}
    runtime = Runtime(command, workspace, image, base_config, environment)
    libc = ctypes.CDLL(None)
    spared = children()
    # Containers outlive `create` and then are ours to reap, as an engine's monitor does it.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield runtime
    finally:
        runtime.delete_everything(spared)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    # Processes, mounts and cgroups: the check that every test of the project has.
    assert runtime.ids() == [], "state directories are left"
