"""`migrate checkpoint` and `migrate restore`: what runs on, and as what."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.runtime.state import status
from tests.checkpoint.conftest import MIGRATE, Box, Maker, eventually
from tests.support.bundle import Config

pytestmark = pytest.mark.criu


def join_the_host(config: Config) -> None:
    """Leave the network namespace out of a configuration."""
    spaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [each for each in spaces if each["type"] != "network"]


# Its file is never cut short: CRIU refuses to restore one whose size is another than when
# it was dumped, and the process may be caught with it open.
COUNTER = "i=0; while :; do i=$((i+1)); printf 'counted=%08d\\n' $i 1<> /status; sleep 0.01; done"


def started(make: Maker, **more: object) -> Box:
    """Return a running container that counts in its /status."""
    counter = make("sh", "-c", COUNTER, **more)
    counter.start()
    eventually(lambda: counter.number("counted") > 3, "it counts")
    return counter


def goes_on(counter: Box, word: str = "counted") -> bool:
    """Tell whether a number of the status file still grows."""
    before = counter.number(word)
    eventually(lambda: counter.number(word) > before, f"{word} grows")
    return True


def test_a_counter_goes_on_where_it_was(box: Maker) -> None:
    counter = started(box)
    counter.checkpoint()
    stopped_at = counter.number("counted")
    time.sleep(0.1)
    assert counter.number("counted") == stopped_at
    counter.restore()
    eventually(lambda: counter.number("counted") > stopped_at, "it goes on")
    assert counter.number("counted") < stopped_at + 100


def test_a_checkpoint_ends_the_container_and_forgets_it(box: Maker) -> None:
    counter = started(box)
    record = counter.record
    counter.checkpoint()
    assert counter.store.ids() == []
    assert status(record) == "stopped"
    assert not any(os.path.exists(directory) for directory in record["cgroup"].values())


def test_leave_running_lets_it_go_on(box: Maker) -> None:
    counter = started(box)
    counter.checkpoint("--leave-running")
    assert counter.status == "running"
    assert goes_on(counter)
    counter.delete()
    # The file it writes has changed since, which CRIU would refuse if it was open then.
    assert (counter.images / "manifest.json").exists()


def test_a_restored_container_is_one_like_any_other(box: Maker) -> None:
    counter = started(box)
    counter.checkpoint()
    counter.restore("--pid-file", str(counter.folder / "pid"))
    assert counter.status == "running"
    assert (counter.folder / "pid").read_text() == str(counter.record["pid"])
    counter.migrate("exec", counter.id, "true")
    counter.migrate("pause", counter.id)
    assert counter.status == "paused"
    counter.migrate("resume", counter.id)
    shutil.rmtree(counter.images)
    counter.checkpoint()
    counter.restore()
    counter.migrate("kill", counter.id, "KILL")
    eventually(lambda: counter.status == "stopped", "it ends")
    counter.migrate("delete", counter.id)


def test_a_paused_container_can_be_checkpointed(box: Maker) -> None:
    counter = started(box)
    counter.migrate("pause", counter.id)
    counter.checkpoint("--leave-running")
    assert counter.status == "paused"
    counter.migrate("resume", counter.id)
    assert goes_on(counter)


def test_it_is_restored_under_another_bundle_path(box: Maker) -> None:
    counter = started(box)
    counter.checkpoint()
    moved = counter.folder / "elsewhere"
    counter.bundle.rename(moved)
    counter.bundle, counter.rootfs = moved, moved / "rootfs"
    counter.restore()
    assert counter.record["bundle"] == str(moved)
    assert goes_on(counter)


def test_a_bind_mount_is_taken_from_the_new_configuration(box: Maker, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)

    def bind(config: Config) -> None:
        mount = {"destination": "/data", "source": str(data), "type": "bind", "options": ["rbind"]}
        config["mounts"].append(mount)

    counter = box("sh", "-c", COUNTER.replace("/status", "/data/inner/status"), change=bind)
    counter.start()
    eventually((data / "inner" / "status").exists, "it counts")
    counter.checkpoint()
    elsewhere = tmp_path / "elsewhere"
    data.rename(elsewhere)
    path = counter.bundle / "config.json"
    path.write_text(path.read_text().replace(str(data), str(elsewhere)))
    counter.restore()
    before = (elsewhere / "inner" / "status").read_text()
    eventually(lambda: (elsewhere / "inner" / "status").read_text() != before, "it goes on")


def test_everything_a_process_tree_has_is_carried(box: Maker, subject: Path) -> None:
    tree = box("/subject")
    shutil.copy2(subject, tree.rootfs / "subject")
    tree.start()
    eventually(lambda: tree.number("echo") > 3 and tree.number("epoll") > 3, "it is at work")
    before = tree.words()
    assert (before["flock"], before["posix"]) == ("held", "held")
    tree.checkpoint()
    tree.restore()
    for word in ("turns", "threads", "shared", "sysv", "echo", "epoll"):
        eventually(lambda word=word: tree.number(word) > int(before[word]) + 3, f"{word} goes on")  # type: ignore[misc]
    after = tree.words()
    for word, value in {
        "flock": "held",
        "posix": "held",
        "deleted": "deleted",
        "renamed": "renamed",
    }.items():
        assert after[word] == value, word
    piped = (tree.rootfs / "piped").read_text().splitlines()
    assert piped == [str(number) for number in range(1, len(piped) + 1)]


@pytest.fixture
def log_socket(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket of the host, in a folder of its own."""
    (tmp_path / "log").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "log" / "socket"))
        listener.settimeout(20)
        yield listener


def talking_to(
    log_socket: socket.socket, box: Maker, subject: Path, where: str, *, joins: bool
) -> Box:
    """Return a running container that sends to the host's socket, which is mounted there."""

    def change(config: Config) -> None:
        source = os.path.dirname(log_socket.getsockname())
        mount = {"destination": where, "source": source, "type": "bind", "options": ["bind"]}
        config["mounts"].append(mount)
        if joins:
            join_the_host(config)

    talker = box("/subject", f"{where}/socket", change=change)
    shutil.copy2(subject, talker.rootfs / "subject")
    talker.start()
    assert log_socket.recv(8)
    return talker


def test_a_datagram_socket_to_the_host_is_connected_again(
    box: Maker, subject: Path, log_socket: socket.socket
) -> None:
    where = os.path.dirname(log_socket.getsockname())
    talker = talking_to(log_socket, box, subject, where, joins=True)
    (peer,) = talker.facts().host_unix_sockets
    assert peer == f"{log_socket.getsockname()}, process 1 (subject)"
    talker.checkpoint()
    talker.restore()
    before = talker.number("turns")
    while int.from_bytes(log_socket.recv(8), "little") <= before:
        pass


@pytest.mark.parametrize("network", ["host", "own"])
def test_one_that_criu_cannot_connect_again_is_named_before_anything_is_frozen(
    box: Maker, subject: Path, log_socket: socket.socket, network: str
) -> None:
    talker = talking_to(log_socket, box, subject, "/elsewhere", joins=network == "host")
    assert talker.checkpoint(check=False) == 1
    said = (talker.folder / "log").read_text()
    peer = log_socket.getsockname() if network == "host" else "a UNIX socket outside"
    assert f"process 1 (subject) is connected to {peer}" in said
    assert not talker.images.exists()


@pytest.mark.parametrize("delay", [0.05, 0.12, 0.18, 0.22, 0.26, 0.3])
def test_a_signal_to_a_restore_leaves_a_whole_container_or_nothing(
    box: Maker, delay: float
) -> None:
    counter = started(box)
    groups = counter.record["cgroup"]
    counter.checkpoint()
    with (counter.folder / "interrupted").open("wb") as file:
        process = subprocess.Popen(
            [
                *(MIGRATE, "--root", counter.store.root, "restore", "-d"),
                *("--bundle", str(counter.bundle), "--image-path", str(counter.images)),
                counter.id,
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        failed = process.wait(30) != 0
    if counter.store.exists(counter.id):
        assert counter.status == "running"
        assert goes_on(counter)
    else:
        assert failed
        assert not any(os.path.exists(directory) for directory in groups.values())
        assert not list(Path("/run").glob("migrate-restore-*"))


def test_it_keeps_its_own_control_groups_and_namespaces(box: Maker) -> None:
    counter = started(box)
    counter.checkpoint()
    counter.restore()
    pid = counter.record["pid"]
    for kind in ("pid", "mnt", "ipc", "uts", "net"):
        inner, outer = (os.readlink(f"/proc/{each}/ns/{kind}") for each in (pid, "self"))
        assert inner != outer
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert all(line.endswith(counter.id) for line in groups if not line.startswith("0::/.."))


def test_standard_streams_become_those_of_the_restore(box: Maker) -> None:
    talker = box("sh", "-c", "i=0; while :; do i=$((i+1)); echo said $i; sleep 0.01; done")
    reading, writing = os.pipe()
    talker.start(stdio=writing)
    os.close(writing)
    assert os.read(reading, 4096).startswith(b"said 1\n")
    talker.checkpoint()
    while os.read(reading, 65536):
        pass
    os.close(reading)
    reading, writing = os.pipe()
    talker.restore(stdio=writing)
    os.close(writing)
    first = os.read(reading, 4096).split(b"\n")[0]
    assert first.startswith(b"said ")
    assert int(first.split()[1]) > 1
    talker.delete()
    os.close(reading)


def test_a_host_file_as_output_becomes_that_of_the_restore(box: Maker) -> None:
    talker = box("sh", "-c", "i=0; while :; do i=$((i+1)); echo said $i; sleep 0.01; done")
    logs = [talker.folder / "first.log", talker.folder / "second.log"]
    descriptors = [os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o640) for log in logs]
    talker.start(stdio=descriptors[0])
    eventually(lambda: b"said 3" in logs[0].read_bytes(), "it talks")
    talker.checkpoint()
    size = logs[0].stat().st_size
    talker.restore(stdio=descriptors[1])
    for descriptor in descriptors:
        os.close(descriptor)
    eventually(lambda: b"said" in logs[1].read_bytes(), "it talks on")
    assert logs[0].stat().st_size == size


def test_a_signal_to_the_command_leaves_the_container_running(box: Maker) -> None:
    counter = started(box)
    log = counter.folder / "interrupted"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(MIGRATE, "--root", counter.store.root, "checkpoint"),
                *("--image-path", str(counter.images), counter.id),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        eventually((counter.images / "dump.log").exists, "the dump has begun")
        process.send_signal(signal.SIGINT)
    if process.wait():
        assert counter.status == "running"
        assert goes_on(counter)
        assert not list(counter.images.glob("*.img"))


def test_without_its_images_directory_it_says_which_one_is_missing(box: Maker) -> None:
    counter = box("sleep", "1000")
    assert counter.restore(check=False) == 1
    assert "images: no such file or directory" in (counter.folder / "log").read_text()


def test_a_taken_id_is_refused_before_criu_is_asked(box: Maker) -> None:
    counter = started(box)
    counter.checkpoint("--leave-running")
    assert counter.restore(check=False) == 1
    assert "already exists" in (counter.folder / "log").read_text()
    assert goes_on(counter)


def test_a_tcp_connection_over_the_loopback_is_carried(box: Maker) -> None:
    server = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"
    script = (
        f"nc -l -p 7000 -e sh -c '{server}' & sleep 0.3;"
        "sleep 1000 | nc 127.0.0.1 7000 | while read line; do echo counted=$line > /status; done"
    )
    pair = box("sh", "-c", script)
    pair.start()
    eventually(lambda: pair.number("counted") > 3, "they are connected")
    facts = pair.facts()
    assert {each.state for each in facts.connections} == {"ESTAB"}
    assert all(each.is_loopback for each in facts.connections)
    pair.checkpoint()
    before = pair.number("counted")
    pair.restore()
    eventually(lambda: pair.number("counted") > before + 5, "the connection goes on")


def test_a_tcp_connection_to_the_host_is_carried(box: Maker) -> None:
    port = 20000 + os.getpid() % 10000
    server = box("/bin/payload", "--status", "/status", "--port", str(port), change=join_the_host)
    server.start()
    eventually(lambda: server.number("ticks") > 3, "it serves")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        numbers = client.makefile("r")
        first = int(next(numbers))
        facts = server.facts()
        assert facts.network.kind == "host"
        assert [each.remote for each in facts.connections] == [
            f"127.0.0.1:{client.getsockname()[1]}"
        ]
        server.checkpoint()
        server.restore()
        got = [int(next(numbers)) for _ in range(300)]
    assert got == list(range(first + 1, first + 301))


def test_closed_connections_are_restored_as_closed_where_that_is_asked(box: Maker) -> None:
    port = 20000 + os.getpid() % 10000
    server = box("/bin/payload", "--status", "/status", "--port", str(port), change=join_the_host)
    server.start()
    eventually(lambda: server.number("ticks") > 3, "it serves")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        assert client.recv(10)
        server.checkpoint("--tcp-established")
        server.restore("--tcp-close")
        before = server.number("ticks")
        eventually(lambda: server.number("ticks") > before, "it goes on")
    server.migrate("kill", server.id, "KILL")


def test_what_a_detached_exec_started_goes_along(box: Maker) -> None:
    counter = started(box)
    counter.migrate("exec", "-d", counter.id, "sleep", "999")
    assert counter.facts().obstacles == ()
    counter.checkpoint()
    counter.restore()
    assert goes_on(counter)
    counter.migrate("ps", counter.id)
    assert "sleep 999" in counter.said


def test_what_somebody_waits_for_ends_and_the_container_goes_on(box: Maker) -> None:
    counter = started(box)
    pid_file = ("--pid-file", str(counter.folder / "pid"))
    counter.migrate("exec", "-d", *pid_file, counter.id, "sleep", "999")
    eventually(lambda: len(counter.facts().obstacles) == 1, "it is there")
    counter.checkpoint()
    assert "was started by `exec` and stays behind" in counter.said
    counter.restore()
    assert goes_on(counter)
    assert counter.facts().obstacles == ()


def test_a_zombie_and_an_orphan_are_carried(box: Maker) -> None:
    script = "(sleep 0.05 &) ; (sh -c 'i=0; while :; do i=$((i+1)); echo counted=$i > /status;"
    script += " sleep 0.01; done' &) ; exec sleep 1000"
    careless = box("sh", "-c", script)
    careless.start()
    eventually(lambda: careless.number("counted") > 10, "the orphan counts")
    careless.checkpoint()
    careless.restore()
    assert goes_on(careless)


def test_a_read_only_root_without_a_tmp_is_restored_as_it_was(box: Maker) -> None:
    def read_only(config: Config) -> None:
        config["root"]["readonly"] = True

    bare = box("sleep", "1000", change=read_only)
    for name in ("tmp", "var", "root"):
        (bare.rootfs / name).rmdir()
    before = sorted(path.name for path in bare.rootfs.iterdir())
    bare.start()
    bare.checkpoint()
    bare.restore()
    assert bare.status == "running"
    assert bare.migrate("exec", bare.id, "touch", "/new", check=False) == 1
    assert sorted(path.name for path in bare.rootfs.iterdir()) == sorted({*before, "dev", "sys"})


def test_a_task_of_another_user_is_refused_by_name_where_criu_cannot_dump_it(box: Maker) -> None:
    def as_nobody(config: Config) -> None:
        config["process"]["user"] = {"uid": 65534, "gid": 65534}

    nobody = box("sleep", "1000", change=as_nobody)
    nobody.start()
    if nobody.checkpoint(check=False):
        said = (nobody.folder / "log").read_text()
        assert "CAP_SYS_RESOURCE" in said
        assert "1 (sleep)" in said
        assert nobody.status == "running"
        assert not (nobody.images / "dump.log").exists()
    else:
        nobody.restore()
        assert nobody.status == "running"
