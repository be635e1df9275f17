"""What a container has beside its memory and its files moves with it, or is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.live.moving import read
from tests.live.subject import ID, NETWORK_ADDRESS, Subject, subject
from tests.support.bundle import Config
from tests.support.hosts import Site, wait_until

FIRST_ID = 100000
CLIENT_PORT = 9000
COUNT = "i=0; while :; do i=$((i+1)); echo $i >>/counted; sleep 0.02; done"
LISTENER = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    connection, _ = server.accept()
with open("/srv/heard", "wb") as file:
    while part := connection.recv(4096):
        file.write(part)
        file.flush()
"""


@pytest.fixture
def it(hosts: Site) -> Iterator[Subject]:
    """A container that the test makes as it needs it."""
    with subject(hosts) as made:
        yield made


def test_whatever_its_processes_have_is_there_afterwards(it: Subject) -> None:
    it.make(["/belongings"])
    it.start()
    it.wait_until_ready()
    it.live()
    it.must_have_moved()
    assert it.verdicts(it.host2) == {}


def test_what_only_criu_forgets_is_there_after_a_checkpoint_too(it: Subject) -> None:
    it.make(["/belongings", "affinity", "io-priority", "timer-slack", "timerfd", "processes"])
    it.start()
    it.wait_until_ready()
    images = ["--image-path", "/srv/images"]
    it.host1.run(["migrate", "checkpoint", *images, ID])
    where = ["--bundle", "/srv/subject"]
    it.host1.run_detached(["migrate", "restore", "-d", *images, *where, ID])
    assert it.verdicts(it.host1) == {}


# --- what config.json gives it ---


def in_a_user_namespace(config: Config) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = maps


def let_user_in(it: Subject) -> None:
    """Let root of the user namespace have the root file system."""
    it.host1.run(["sh", "-c", "chmod 711 /srv /srv/subject && chmod 755 /srv/subject/rootfs"])
    it.host1.run(["chown", "-R", f"{FIRST_ID}:{FIRST_ID}", "/srv/subject/rootfs"])


def test_a_user_namespace_has_its_maps_afterwards(it: Subject) -> None:
    it.make(["/belongings", "pipes", "timerfd", "flock"], in_a_user_namespace)
    let_user_in(it)
    it.start()
    it.wait_until_ready()
    it.live()
    it.must_have_moved()
    assert it.exec(it.host2, "cat", "/proc/self/uid_map").split() == ["0", str(FIRST_ID), "65536"]
    assert it.verdicts(it.host2) == {}


def test_a_filter_of_system_calls_filters_on(it: Subject) -> None:
    def forbid(config: Config) -> None:
        rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    it.make(["sh", "-c", "while :; do mkdir /new 2>/said; sleep 0.05; done"], forbid)
    it.start()
    it.wait_for("said")
    it.live()
    it.must_have_moved()
    it.file("said", it.host2).write_text("")
    assert "Permission denied" in it.wait_for("said", it.host2)
    assert not it.file("new", it.host2).exists()


def test_limits_are_those_that_were_set_last(it: Subject) -> None:
    def limit(config: Config) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 50}
        config["linux"]["resources"]["memory"] = {"limit": 100 << 20}

    it.make(["sleep", "1000"], limit)
    it.start()
    it.host1.run(["migrate", "update", "--pids-limit", "77", "--cpu-share", "300", ID])
    it.live()
    it.must_have_moved()
    found = [
        it.host2.folder(f"/sys/fs/cgroup/{name}").read_text().strip()
        for name in (
            f"pids/{ID}/pids.max",
            f"cpu/{ID}/cpu.shares",
            f"memory/{ID}/memory.limit_in_bytes",
        )
    ]
    assert found == ["77", "300", str(100 << 20)]


def test_a_connection_that_it_made_itself_stays(it: Subject) -> None:
    client = it.site.client
    client.run(["ip", "neighbour", "flush", "all"])
    network = it.host1.add_network(ID, NETWORK_ADDRESS)
    with client.popen([sys.executable, "-c", LISTENER, str(CLIENT_PORT)]) as listener:
        wait_until(lambda: f":{CLIENT_PORT}" in client.run(["ss", "-ltn"]).stdout, "it listens")
        count = "i=0; while :; do i=$((i+1)); echo $i; usleep 5000; done"
        it.make(["sh", "-c", f"{count} | nc {client.address} {CLIENT_PORT}"], network=network)
        it.start()
        heard = client.folder("/srv/heard")
        wait_until(lambda: read(heard).count("\n") > 20, "it is heard")
        it.live()
        it.must_have_moved()
        before = heard.read_text().count("\n")
        wait_until(lambda: heard.read_text().count("\n") > before + 50, "it is heard on")
        assert listener.poll() is None, "the connection ended"
        lines = heard.read_text().split("\n")[:-1]
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        it.host2.run(["migrate", "delete", "--force", ID])
        listener.wait(10)
    client.run(["rm", "/srv/heard"])


# --- what cannot follow ---


def nested(config: Config) -> None:
    config["process"]["args"] = ["unshare", "-pf", "sh", "-c", "touch /ready; sleep 1000"]
    for name in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN"]


def nothing(_: Config) -> None:
    return


@pytest.mark.parametrize(
    ("args", "change", "said"),
    [
        (["lease"], nothing, "has a lease on a file"),
        (["semaphore"], nothing, "has a semaphore (eventfd) open"),
        (["message-queue"], nothing, "has the message queue /queue open as"),
        (["early-words"], nothing, "the connection is not accepted yet; it runs on here"),
        ([], nested, "is in a pid namespace of its own"),
    ],
)
def test_what_cannot_follow_is_refused_by_name(
    it: Subject, args: list[str], change: Callable[[Config], None], said: str
) -> None:
    it.make(["/belongings", *args], change)
    it.start()
    it.wait_until_ready()
    done = it.live(check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert it.status(it.host1) == "running"
    assert it.status(it.host2) == "absent"


def test_a_user_namespace_with_a_link_is_refused(it: Subject) -> None:
    network = it.host1.add_network(ID, NETWORK_ADDRESS)

    def without_sysfs(config: Config) -> None:
        in_a_user_namespace(config)  # who may not mount one of a network that is not theirs
        config["mounts"] = [each for each in config["mounts"] if each["type"] != "sysfs"]

    it.make(["sleep", "1000"], without_sysfs, network=network)
    let_user_in(it)
    it.start()
    done = it.live(check=False)
    assert done.returncode == 1
    assert "has a user namespace and joins a network namespace" in done.stderr
    assert it.status(it.host1) == "running"


def test_a_stopped_process_in_a_paused_container_is_refused(it: Subject) -> None:
    """Nobody can take it: neither ptrace nor CRIU comes back from trying."""
    it.make(["sh", "-c", "sleep 1000 & echo $! >/sleeper; wait"])
    it.start()
    sleeper = it.wait_for("sleeper").strip()
    it.exec(it.host1, "kill", "-STOP", sleeper)
    it.host1.run(["migrate", "pause", ID])
    done = it.live(check=False)
    assert done.returncode == 1
    assert "is stopped by a signal and frozen" in done.stderr
    assert "migrate resume" in done.stderr
    assert it.status(it.host1) == "paused"
    it.host1.run(["migrate", "resume", ID])
    it.live()
    it.must_have_moved()
    pid = it.pid(it.host2)
    children = it.host2.folder(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stat = it.host2.folder(f"/proc/{children[0]}/stat").read_text()
    assert stat.rpartition(")")[2].split()[0] == "T"


# --- processes beside the first one's ---


def test_a_detached_exec_goes_along(it: Subject) -> None:
    it.make(["sleep", "1000"])
    it.start()
    it.host1.run_detached(["migrate", "exec", "-d", ID, "sh", "-c", COUNT])
    it.wait_for("counted")
    it.live()
    it.must_have_moved()
    counted = it.file("counted", it.host2)
    before = int(read(counted).split()[-1])
    wait_until(lambda: int((read(counted).split() or ["0"])[-1]) > before + 5, "it counts on")
    assert "echo $i >>/counted" in it.host2.run(["migrate", "ps", ID]).stdout
    assert it.exec(it.host2, "echo", "again") == "again\n"


def test_an_exec_that_somebody_waits_for_stays_and_is_named(it: Subject) -> None:
    it.make(["sleep", "1000"])
    it.start()
    pid_file = ["--pid-file", "/srv/pid"]
    it.host1.run_detached(["migrate", "exec", "-d", *pid_file, ID, "sleep", "2000"])
    done = it.live()
    assert "(sleep) was started by `exec` and stays behind" in done.stderr
    it.must_have_moved()
    assert "sleep 2000" not in it.host2.run(["migrate", "ps", ID]).stdout


# --- output ---


def test_its_output_goes_on_in_a_file_over_there(it: Subject) -> None:
    it.make(["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i >&2; sleep 0.01; done"])
    command = ["migrate", "run", "-d", "--bundle", "/srv/subject", ID]
    log = it.host1.folder("/srv/log")
    with (
        open(log, "ab") as out,
        open(it.host1.folder("/srv/errors"), "ab") as errors,
        it.host1.popen(command, stdout=out, stderr=errors) as process,
    ):
        assert process.wait() == 0
    wait_until(lambda: read(log).count("\n") > 10, "it writes")
    there = it.host2.folder("/srv/log-there")
    there.write_text("what was there before\n")
    done = it.live("--stdout", "/srv/log-there")
    it.must_have_moved()
    assert "standard error of the container" in done.stderr
    assert "standard output of the container" not in done.stderr
    wait_until(lambda: read(there).count("\n") > 10, "it writes on")
    lines = [*log.read_text().split(), *there.read_text().split("\n")[1:-1]]
    assert lines == [str(number) for number in range(1, len(lines) + 1)]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("log", "is not an absolute path"),
        ("/nowhere/log", "/nowhere/log, for the container's output: no such file"),
        ("/srv", "/srv, for the container's output: is a directory"),
        ("/dev/null", "is not a regular file"),
    ],
)
def test_a_file_that_cannot_be_had_is_refused(it: Subject, path: str, said: str) -> None:
    it.make(["sleep", "1000"])
    with (
        open(it.host1.folder("/srv/log"), "ab") as out,
        it.host1.popen(
            ["migrate", "run", "-d", "--bundle", "/srv/subject", ID], stdout=out
        ) as process,
    ):
        assert process.wait() == 0
    done = it.live("--stdout", path, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert it.status(it.host1) == "running"
    assert it.status(it.host2) == "absent"


def test_connections_within_it_survive_the_way_back_into_a_joined_network(it: Subject) -> None:
    """CRIU leaves a table there that drops the packets of just these."""
    network = it.host1.add_network(ID, NETWORK_ADDRESS)
    it.make(["/belongings", "tcp", "udp"], network=network)
    it.start()
    it.wait_until_ready()
    it.live()
    it.must_have_moved()
    tables = ["ip", "netns", "exec", ID, "nft", "list", "tables"]
    assert it.host1.run(tables).stdout == ""
    it.host2.run(["migrate", "live", ID, "--to", "host1"])
    assert it.status(it.host1) == "running"
    assert it.verdicts(it.host1) == {}
