"""Fixtures of tests/oci: the runtime under test, its image, and the check for leaks."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import (
    PROJECT,
    Config,
    Runtime,
    cgroups_named,
    is_runc,
    mounts_below,
    runtime_command,
)
from .oracle import NOT_RUNC

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        name = getattr(item, "originalname", item.name)
        reason = NOT_RUNC.get(item.name) or NOT_RUNC.get(name)
        if is_runc() and reason:
            item.add_marker(pytest.mark.skip(reason=f"runc 1.1.5: {reason}"))
        else:
            item.add_marker(
                pytest.mark.criu if "checkpoint" in item.path.name else pytest.mark.root
            )


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


@pytest.fixture(scope="session")
def base_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """What the runtime's own `spec` writes, without a terminal and with a writable root."""
    work = tmp_path_factory.mktemp("spec")
    subprocess.run([runtime_command(), "spec"], cwd=work, check=True)
    config: Config = json.loads((work / "config.json").read_text())
    config["process"]["terminal"] = False
    config["root"]["readonly"] = False
    return config


@pytest.fixture
def runtime(tmp_path: Path, image: Path, base_config: Config) -> Iterator[Runtime]:
    """The runtime with an empty state root; nothing of it may be left at the end."""
    criu_first = f"{PROJECT / '.prefix' / 'sbin'}:{os.environ['PATH']}"
    runtime = Runtime(tmp_path, image, base_config, {"PATH": criu_first, "HOME": "/root"})
    libc = ctypes.CDLL(None)
    # Containers outlive `create` and then are ours to reap, as an engine's monitor does it.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield runtime
    finally:
        runtime.delete_everything()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert runtime.ids() == [], "state directories are left"
    assert mounts_below(tmp_path) == [], "mounts are left on the host"
    assert cgroups_named(runtime.prefix) == [], "cgroups are left"
