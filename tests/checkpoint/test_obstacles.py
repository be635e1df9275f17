"""What CRIU could not carry is found in running processes, and named."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.checkpoint import settings, watches
from migrate.checkpoint.descriptors import read_descriptors
from migrate.checkpoint.endpoints import obstacles
from migrate.checkpoint.facts import Obstacle
from migrate.checkpoint.inspect import _mapped
from tests.checkpoint.conftest import Maker
from tests.support.bundle import Config

NAMES = {os.getpid(): "1 (here)"}


def of_socket(made: socket.socket) -> list[Obstacle]:
    inode = os.fstat(made.fileno()).st_ino
    return list(obstacles({inode: (os.getpid(), made.fileno())}, NAMES))


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_INET6, socket.SOCK_DGRAM, 0),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0),
        (socket.AF_PACKET, socket.SOCK_RAW, 0),
    ],
)
@pytest.mark.root
def test_sockets_that_can_follow_are_no_obstacle(family: int, kind: int, protocol: int) -> None:
    with socket.socket(family, kind, protocol) as made:
        assert of_socket(made) == []
        assert os.get_blocking(made.fileno()), "looking at it has changed it"


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "said"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 262, "MPTCP"),
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_SCTP, "SCTP"),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0, "AF_VSOCK"),
        (44, socket.SOCK_RAW, 0, "AF_XDP"),
    ],
)
@pytest.mark.root
def test_sockets_that_cannot_follow_are_named(
    family: int, kind: int, protocol: int, said: str
) -> None:
    try:
        made = socket.socket(family, kind, protocol)
    except OSError:
        return  # this kernel has none of the kind, so nobody can have one
    with made:
        (found,) = of_socket(made)
        assert found.verdict == "refuse"
        assert f"process 1 (here) has a socket of kind {said} open as {made.fileno()}" in found.what
        assert ("multipathtcp=0" in found.hint) == (said == "MPTCP")


# --- watches ---

WATCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(0)
assert libc.inotify_add_watch(fd, sys.argv[1].encode(), 2) >= 0
print(fd, flush=True)
sys.stdin.read()
"""
Watcher = Callable[..., list[Obstacle]]


@pytest.fixture
def watched() -> Iterator[Watcher]:
    """Has a process watch a path, and returns what is found of it."""
    with contextlib.ExitStack() as stack:

        def watch(path: str, prepare: str = "true") -> list[Obstacle]:
            script = f'{prepare}; exec "$0" -c "$1" "$2"'
            inside = [sys.executable, WATCH, path]
            process = stack.enter_context(
                subprocess.Popen(
                    ["unshare", "--mount", "sh", "-ec", script, *inside],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert process.stdout is not None
            number = int(process.stdout.readline())
            return list(watches.obstacles(process.pid, number, "1 (watcher)"))

        yield watch


@pytest.mark.root
def test_a_watch_on_a_file_or_a_folder_can_follow(watched: Watcher, tmp_path: Path) -> None:
    assert watched(str(tmp_path)) == []
    mounted = f"mount -t tmpfs none {tmp_path}; touch {tmp_path}/file"
    assert watched(f"{tmp_path}/file", mounted) == []


@pytest.mark.root
def test_a_watch_on_an_overlay_cannot_follow(watched: Watcher, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").touch()
    layers = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    (found,) = watched(
        f"{tmp_path}/merged/file", f"mount -t overlay none -o {layers} {tmp_path}/merged"
    )
    assert found.verdict == "refuse"
    assert "process 1 (watcher) watches inode " in found.what
    assert "(overlay)" in found.what


@pytest.mark.root
def test_a_watch_on_a_view_of_the_kernel_cannot_follow(watched: Watcher) -> None:
    (found,) = watched("/proc/self/status")
    assert "(proc)" in found.what


@pytest.mark.root
def test_the_watches_of_all_processes_are_found() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH, "/proc/self/status"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        found = read_descriptors([process.pid], {process.pid: "1 (watcher)"})
        assert ["watches inode" in each.what for each in found.obstacles] == [True]


# --- what it shares ---


@pytest.mark.parametrize(
    ("kind", "verdict"), [("pid", "refuse"), ("ipc", "warn"), ("uts", "warn"), ("mount", "")]
)
def test_a_namespace_that_is_joined_is_named(kind: str, verdict: str) -> None:
    spec = {"linux": {"namespaces": [{"type": kind, "path": "/run/it"}]}}
    found = list(settings.obstacles(spec))
    assert [each.verdict for each in found] == ([verdict] if verdict else [])
    assert all("(/run/it)" in each.what and each.hint for each in found)
    assert not list(settings.obstacles({"linux": {"namespaces": [{"type": kind}]}}))


SHARED_MEMORY = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
number = libc.shmget(0, 4096, 0o1600)
assert libc.shmat(number, None, 0) != ctypes.c_void_p(-1).value
libc.shmctl(number, 0, None)
print("ok", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("enter", "count"), [((), 1), (("unshare", "--ipc"), 0)])
@pytest.mark.root
def test_shared_memory_of_the_host_cannot_follow(enter: tuple[str, ...], count: int) -> None:
    command = [*enter, sys.executable, "-c", SHARED_MEMORY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ok\n"
        found = _mapped([process.pid], {process.pid: "1 (sharer)"})
    assert len(found) == count
    assert all("/SYSV" in each.what and "ipc namespace" in each.hint for each in found)


@pytest.mark.criu
def test_a_container_in_anothers_process_namespace_is_refused(box: Maker) -> None:
    first = box("sleep", "1000")
    first.start()

    def change(config: Config) -> None:
        for space in config["linux"]["namespaces"]:
            if space["type"] == "pid":
                space["path"] = f"/proc/{first.record['pid']}/ns/pid"

    second = box("sleep", "1000", change=change)
    second.start()
    assert second.checkpoint(check=False) == 1
    assert "joins a process namespace" in second.said
    second.delete()
