"""What is found out about a container before it is frozen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint import netns, procfs
from migrate.checkpoint.descriptors import Descriptors, read_descriptors
from migrate.checkpoint.inspect import bind_source, binds
from migrate.errors import StateError
from tests.checkpoint.conftest import Maker, eventually
from tests.support.bundle import Config


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[bytes]]:
    """A process that opens what it is told by Python code, and waits."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; exec(sys.stdin.readline()); print('ok', flush=True);sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


def held(holder: subprocess.Popen[bytes], code: str) -> Descriptors:
    """Return what the process's descriptors are once it has run the code."""
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(code.encode() + b"\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == b"ok\n"
    return read_descriptors([holder.pid], {holder.pid: "1 (holder)"})


def test_ends_of_pipes_that_lead_outside_are_found(holder: subprocess.Popen[bytes]) -> None:
    found = held(holder, "import os; global own; own = os.pipe()")
    pipes = [each for each in found.stdio if each.kind == "pipe"]
    assert [each.descriptor for each in pipes] == [0, 1]
    assert pipes[0].key == os.readlink(f"/proc/{holder.pid}/fd/0")


def test_a_file_without_a_name_counts_with_its_size(
    holder: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "gone"
    found = held(
        holder,
        f"global f; f = open({str(path)!r}, 'w'); f.write('x' * 5_000_000); f.flush();"
        f"import os; os.unlink({str(path)!r})",
    )
    assert found.ghost_bytes >= 5_000_000
    assert not found.has_remapped_links


def test_a_file_with_another_name_left_is_found(
    holder: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    path = str(tmp_path / "old")
    found = held(
        holder,
        f"global f; f = open({path!r}, 'w'); import os; os.link({path!r}, {path!r} + '2');"
        f"os.unlink({path!r})",
    )
    assert found.has_remapped_links
    assert found.ghost_bytes == 0


def test_harmless_descriptors_are_no_obstacle(holder: subprocess.Popen[bytes]) -> None:
    code = (
        "import os, select, socket; global k; k = [os.open('/dev/zero', 0), os.eventfd(0),"
        "select.epoll(), socket.socketpair(), os.memfd_create('x'), os.pidfd_open(os.getpid())]"
    )
    assert held(holder, code).obstacles == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import ctypes; r = ctypes.CDLL(None).syscall(425, 4, bytes(120)); r < 0 and exit(9)",
            "io_uring",
        ),
        ("import os; global f; f = os.open('/dev/loop-control', 0)", "/dev/loop-control"),
        ("import os; global f; f = os.open('/dev/fuse', 2)", "/dev/fuse"),
    ],
)
def test_what_cannot_follow_is_named_with_its_process(
    holder: subprocess.Popen[bytes], code: str, said: str
) -> None:
    try:
        found = held(holder, code)
    except AssertionError:
        holder.wait()
        return  # this kernel has none of it, so nobody can hold one
    refused = [each for each in found.obstacles if each.verdict == "refuse"]
    assert len(refused) == 1
    assert "process 1 (holder)" in refused[0].what
    assert said in refused[0].what


def test_peers_of_unix_sockets_are_known(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    ends = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        server, _ = listener.accept()
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        peers = netns.inside(own, netns.unix_sockets)
        os.close(own)
        inodes = [os.fstat(each.fileno()).st_ino for each in (*ends, client, server, listener)]
        assert peers[inodes[0]].peer == inodes[1]
        assert peers[inodes[2]].peer == inodes[3]
        assert peers[inodes[4]] == netns.UnixSocket(0, path, is_datagram=False)
        server.close()
    for end in ends:
        end.close()


def test_a_fresh_network_namespace_has_lo_as_it_was() -> None:
    for is_up in (True, False):
        made = netns.fresh(loopback_is_up=is_up)
        assert netns.inside(made, netns.interfaces) == {"lo": is_up}
        os.close(made)


def test_what_fails_inside_a_namespace_is_raised_here() -> None:
    made = netns.fresh(loopback_is_up=False)
    with pytest.raises(ZeroDivisionError):
        netns.inside(made, lambda: 1 // 0)
    os.close(made)


@pytest.mark.parametrize(
    ("point", "source"),
    [
        ("/data", "/bundle/rel"),
        ("/data/below", "/bundle/rel/below"),
        ("/database", None),
        ("/abs", "/host"),
        ("/tmpfs", None),
        ("/", None),
    ],
)
def test_sources_of_bind_mounts_follow_the_configuration(point: str, source: str | None) -> None:
    spec = {
        "mounts": [
            {"destination": "/data/", "type": "bind", "source": "rel"},
            {"destination": "abs", "options": ["ro", "rbind"], "source": "/host"},
            {"destination": "/tmpfs", "type": "tmpfs", "source": "tmpfs"},
        ]
    }
    assert bind_source(point, binds(spec, "/bundle")) == source


def test_addresses_of_sockets_are_read_as_people_write_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            inode = os.fstat(client.fileno()).st_ino
            found = next(each for each in procfs.tcp_sockets(os.getpid()) if each.inode == inode)
    assert found.remote == f"127.0.0.1:{port}"
    assert found.state == "ESTAB"
    assert found.is_loopback


def test_an_ipv4_address_on_an_ipv6_socket_is_still_the_loopback() -> None:
    mapped = "0000000000000000FFFF00000100007F:1F90"
    assert procfs._endpoint(mapped) == "127.0.0.1:8080"
    assert procfs._is_loopback(procfs._address(mapped))
    assert procfs._endpoint("00000000000000000000000001000000:0050") == "[::1]:80"


@pytest.mark.criu
def test_a_process_started_by_exec_is_a_warning_not_a_refusal(box: Maker) -> None:
    host = box("sleep", "1000")
    host.start()
    host.migrate("exec", "-d", "--pid-file", str(host.folder / "pid"), host.id, "sleep", "999")
    eventually(lambda: len(host.facts().obstacles) == 1, "it is seen")
    obstacle = host.facts().obstacles[0]
    assert obstacle.verdict == "warn"
    assert "(sleep) was started by `exec` and stays behind" in obstacle.what


@pytest.mark.criu
def test_a_container_is_described_without_its_comings_and_goings(box: Maker) -> None:
    busy = box("sh", "-c", "while :; do true & sleep 0.001; done")
    busy.start()
    for _ in range(20):
        assert busy.facts().processes[0].inner_pid == 1


@pytest.mark.criu
def test_one_that_has_ended_is_said_to_have_ended(box: Maker) -> None:
    brief = box("true")
    brief.start()
    eventually(lambda: brief.status == "stopped", "it ends")
    with pytest.raises(StateError, match="ended while it was looked at"):
        brief.facts()


@pytest.mark.criu
def test_every_mount_is_either_remade_or_given(box: Maker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()

    def change(config: Config) -> None:
        config["mounts"] += [
            {
                "destination": "/data",
                "source": str(tmp_path / "data"),
                "type": "bind",
                "options": ["bind", "ro"],
            },
            {"destination": "/own", "source": "tmpfs", "type": "tmpfs"},
        ]

    made = box("sleep", "1000", change=change)
    made.start()
    mounts = {each.destination: each for each in made.facts().mounts}
    assert mounts["/data"].kind == "bind"
    assert mounts["/data"].source == str(tmp_path / "data")
    assert "/own" not in mounts
    assert "/proc" not in mounts
    assert mounts["/sys/firmware"].kind == "masked"
    assert made.facts().obstacles == ()
