"""Real programs under load move, and nobody who uses them notices.

Debian's own, in the container's root file system; the client in the third place.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import threads
from tests.live.moving import read
from tests.live.subject import BUNDLE, ID, NETWORK_ADDRESS, Subject, changed, subject
from tests.support import programs
from tests.support.bundle import Config
from tests.support.folders import CHECKOUT
from tests.support.hosts import Host, Site, wait_until
from tests.support.processes import Process

STRATEGIES = ("stop-copy", "pre-copy")
OUTPUT = "/srv/output"
REPORT = "/srv/report"
REDIS_PORT = 6379
POSTGRES_PORT = 5432
POSTGRES_ID = 70
FIRST_ID = 100000
WEB_PORT = 80
THREADS_PORT = 7000
RANDOM_BYTES = 100 << 20


@pytest.fixture
def it(hosts: Site) -> Iterator[Subject]:
    """A container with an address of its own, which the test makes."""
    with subject(hosts) as made:
        hosts.client.run(["ip", "neighbour", "flush", "all"])
        yield made
    hosts.client.run(["sh", "-c", "rm -rf /srv/*"])


def make(it: Subject, args: list[str], change: Callable[[Config], object] | None = None) -> Path:
    """Write the bundle of a program, and return its root file system."""
    it.make(args, change, network=it.host1.add_network(ID, NETWORK_ADDRESS))
    return it.host1.folder(f"{BUNDLE}/rootfs")


def listens(it: Subject, port: int) -> bool:
    """Whether something in the container on host1 takes connections."""
    found = it.host1.run(["ip", "netns", "exec", ID, "ss", "-ltnH", f"sport = :{port}"])
    return bool(found.stdout)


def started(it: Subject, port: int) -> None:
    """Start it and wait until it takes connections."""
    it.start()
    wait_until(lambda: listens(it, port), f"port {port} is served", 30)


def load(it: Subject, *command: str, output: str = OUTPUT) -> Process:
    """Start a client with its output in a file."""
    with open(it.site.client.folder("/srv") / Path(output).name, "wb") as file:
        return it.site.client.popen(
            command, stdout=file, stderr=file, env={"PYTHONPATH": str(CHECKOUT)}
        )


def said(it: Subject, path: str = OUTPUT) -> str:
    """Return what a client has written so far."""
    return read(it.site.client.folder(path))


def module(name: str, port: int, report: str = REPORT) -> list[str]:
    """Return the command of a client of this project's own."""
    return [sys.executable, "-m", f"tests.support.{name}", NETWORK_ADDRESS, str(port), report]


def reported(it: Subject) -> dict[str, Any]:
    """Return what such a client knows so far."""
    return json.loads(said(it, REPORT) or "{}")  # type: ignore[no-any-return]


# --- redis ---


def asked(it: Subject, *words: str) -> str:
    """Return what redis-cli says."""
    command = ["redis-cli", "-h", NETWORK_ADDRESS, "-p", str(REDIS_PORT), *words]
    return it.site.client.run(command).stdout


def connections(it: Subject) -> int:
    """Return how many connections redis has accepted, that of the question included."""
    found = re.search(r"total_connections_received:(\d+)", asked(it, "INFO", "stats"))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_redis_has_every_write_that_it_acknowledged(it: Subject, strategy: str) -> None:
    options = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/data"]
    rootfs = make(it, [str(programs.REDIS), *options, "--appendonly", "yes"])
    programs.install_redis(rootfs)
    (rootfs / "data").mkdir()
    started(it, REDIS_PORT)
    benchmark = ["redis-benchmark", "-h", NETWORK_ADDRESS, "-p", str(REDIS_PORT), "-q"]
    kinds = ["-t", "set", "-c", "8", "-n", "100000000", "-r", "20000", "-d", "400"]
    with (
        load(it, *benchmark, *kinds) as bench,
        load(it, *module("redis_writer", REDIS_PORT), output="/srv/writer") as writer,
    ):
        wait_until(lambda: reported(it).get("acknowledged", 0) > 1000, "it writes", 20)
        before = connections(it)
        it.live("--strategy", strategy)
        at = reported(it)["acknowledged"]
        wait_until(
            lambda: reported(it)["acknowledged"] > at + 500 or reported(it)["error"],
            "it writes on",
            20,
        )
        writer.signal(signal.SIGTERM)
        assert writer.wait(30) == 0
        bench.kill()
        assert bench.wait() == -signal.SIGKILL, said(it)
    it.must_have_moved()
    known = reported(it)
    assert known["error"] == ""
    assert known["wrong"] == 0
    assert connections(it) == before + 1, "a client had to connect again"
    assert "Error" not in said(it)
    # On the disk too: redis writes there before it answers.
    log = b"".join(
        path.read_bytes() for path in it.file("data/appendonlydir", it.host2).glob("*.aof")
    )
    written = {int(each) for each in re.findall(rb"numbered:(\d{8})", log)}
    assert written >= set(range(1, known["acknowledged"] + 1))


# --- nginx ---

NGINX_CONFIG = f"""
worker_processes 2;
daemon off;
user root root;
events {{ worker_connections 64; }}
http {{
  access_log /var/log/nginx/access.log;
  server {{ listen {WEB_PORT}; root /www; }}
}}
"""


def test_a_download_from_nginx_arrives_over_one_connection(it: Subject) -> None:
    rootfs = make(it, [str(programs.NGINX), "-c", "/etc/nginx.conf"])
    programs.install_nginx(rootfs)
    (rootfs / "etc" / "nginx.conf").write_text(NGINX_CONFIG)
    (rootfs / "etc" / "group").write_text("root:x:0:\n")
    (rootfs / "www").mkdir()
    with open("/dev/urandom", "rb") as source:
        data = source.read(RANDOM_BYTES)
    (rootfs / "www" / "data").write_bytes(data)
    started(it, WEB_PORT)
    with load(it, *module("download", WEB_PORT)) as client:
        wait_until(lambda: reported(it).get("arrived", 0) > 1 << 20, "it arrives", 20)
        it.live("--strategy", "pre-copy")
        assert reported(it)["digest"] == reported(it)["error"] == "", "it ended during the move"
        client.signal(signal.SIGUSR1)
        assert client.wait(60) == 0, said(it)
    it.must_have_moved()
    seen = reported(it)
    assert seen["error"] == ""
    assert seen["arrived"] == RANDOM_BYTES
    assert seen["digest"] == hashlib.sha256(data).hexdigest()
    log = it.file("var/log/nginx/access.log", it.host2)
    wait_until(lambda: "GET /data" in log.read_text(), "it is logged over there")


# --- PostgreSQL ---

POSTGRES_OPTIONS = {
    "listen_addresses": "*",
    "shared_buffers": "16MB",
    "max_connections": "20",
    "unix_socket_directories": "/tmp",
}
LOGIN = ["-U", "postgres", "-h"]
Ask = Callable[[str], str]


def install_postgres(it: Subject, rootfs: Path, then: str) -> str:
    """Give it PostgreSQL, and /start, which makes a cluster and does `then`.

    Returns:
        The folder of its programs.
    """
    folder = programs.install_postgres(rootfs, POSTGRES_ID)
    options = " ".join(f"-c {name}='{value}'" for name, value in POSTGRES_OPTIONS.items())
    (rootfs / "start").write_text(
        "exec >/tmp/log 2>&1\n"
        f"export PATH={folder}:/bin\n"
        "initdb --no-sync --auth=trust --locale=C -U postgres -D /data &&\n"
        "echo host all all all trust >>/data/pg_hba.conf || exit 1\n"
        f"serve() {{ exec postgres -D /data {options}; }}\n"
        f"{then}\n"
    )
    (rootfs / "data").mkdir(mode=0o700)
    it.host1.run(["sh", "-c", f"chmod 711 /srv {BUNDLE} && chmod 755 {BUNDLE}/rootfs"])
    return folder


def number_of_transactions(ask: Ask) -> int:
    """Return how many pgbench has done."""
    return int(ask("SELECT count(*) FROM pgbench_history"))


def move_under_transactions(it: Subject, before: Ask, after: Ask) -> None:
    """Move it while pgbench is at work, and let pgbench do some more."""
    wait_until(lambda: number_of_transactions(before) > 50, "transactions are done", 20)
    it.live("--strategy", "pre-copy")
    it.must_have_moved()
    done = number_of_transactions(after)
    wait_until(lambda: number_of_transactions(after) > done + 50, "they go on", 20)


def must_have_every_transaction(ask: Ask, said: str) -> None:
    """Check what pgbench said at its end against what the database has."""
    assert "number of failed transactions: 0 (0.000%)" in said
    done = re.search(r"transactions actually processed: (\d+)", said)
    assert done is not None, said
    assert number_of_transactions(ask) == int(done[1])
    sums = [
        ask(f"SELECT sum({column}) FROM pgbench_{table}")
        for table, column in (
            ("history", "delta"),
            ("accounts", "abalance"),
            ("tellers", "tbalance"),
            ("branches", "bbalance"),
        )
    ]
    assert len(set(sums)) == 1, sums
    # Each index says what its table does.
    found = ask("SET enable_seqscan = off; SELECT count(*) FROM pgbench_accounts WHERE aid > 0")
    assert found.splitlines()[-1] == "100000"


def test_postgresql_keeps_every_transaction_of_clients_elsewhere(it: Subject) -> None:
    """Run by root, whom PostgreSQL refuses, and not told so.

    Without CAP_SYS_RESOURCE CRIU takes processes of another user only out of a user
    namespace, and such a container has no network that could move along.
    """

    def told_another_user(config: Config) -> None:
        config["process"]["env"].append(f"LD_PRELOAD=/{programs.NOT_ROOT}")
        # The folder of its data has to be that user's.
        for kind in config["process"]["capabilities"].values():
            kind += ["CAP_DAC_OVERRIDE", "CAP_FOWNER"]

    rootfs = make(it, ["sh", "/start"], told_another_user)
    install_postgres(it, rootfs, "serve")
    programs.install_not_root(rootfs, POSTGRES_ID)
    it.host1.run(["chown", str(POSTGRES_ID), f"{BUNDLE}/rootfs/data"])
    started(it, POSTGRES_PORT)
    client = it.site.client

    def ask(text: str) -> str:
        return client.run(["psql", *LOGIN, NETWORK_ADDRESS, "-Atc", text]).stdout.strip()

    client.run(["pgbench", "-i", "-q", *LOGIN, NETWORK_ADDRESS, "postgres"])
    command = ["pgbench", "-n", "-c", "4", "-T", "300", *LOGIN, NETWORK_ADDRESS, "postgres"]
    with load(it, *command) as bench:
        move_under_transactions(it, ask, ask)
        bench.signal(signal.SIGALRM)  # its time is over: it ends as by itself
        assert bench.wait(30) == 0, said(it)
    must_have_every_transaction(ask, said(it))


def test_postgresql_moves_with_its_clients_as_a_user_of_a_namespace(it: Subject) -> None:
    def as_postgres(config: Config) -> None:
        changed(config, "process", "user").update(uid=POSTGRES_ID, gid=POSTGRES_ID)
        config["linux"]["namespaces"].append({"type": "user"})
        maps = [{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = maps

    it.make(["sh", "/start"], as_postgres)
    rootfs = it.host1.folder(f"{BUNDLE}/rootfs")
    wait = "until psql -U postgres -h /tmp -c ''; do sleep 0.05; done"
    make_tables = "pgbench -i -q -U postgres -h /tmp postgres"
    bench = "pgbench -n -c 4 -T 300 -U postgres -h /tmp postgres >/tmp/running 2>&1"
    end = "mv /tmp/running /tmp/ended"
    folder = install_postgres(it, rootfs, f"serve &\n{wait}\n{make_tables}\n{bench}\n{end}\nwait")
    it.host1.run(["chown", "-R", f"{FIRST_ID}:{FIRST_ID}", f"{BUNDLE}/rootfs"])
    owner = f"{FIRST_ID + POSTGRES_ID}:{FIRST_ID + POSTGRES_ID}"
    it.host1.run(["chown", owner, f"{BUNDLE}/rootfs/data"])
    it.start()
    wait_until(it.file("tmp/running").exists, "pgbench is started", 30)

    def asker(host: Host) -> Ask:
        command = [f"{folder}/psql", "-U", "postgres", "-h", "/tmp", "-Atc"]
        return lambda text: it.exec(host, *command, text).strip()

    ask = asker(it.host2)
    move_under_transactions(it, asker(it.host1), ask)
    it.exec(it.host2, "killall", "-ALRM", "pgbench")
    must_have_every_transaction(ask, it.wait_for("tmp/ended", it.host2))


# --- Python ---


def test_threads_and_timers_of_python_go_on(it: Subject) -> None:
    rootfs = make(it, [str(programs.PYTHON), "/threads.py", str(THREADS_PORT)])
    programs.install_python(rootfs)
    shutil.copy(threads.__file__, rootfs / "threads.py")
    started(it, THREADS_PORT)
    with load(it, *module("connection", THREADS_PORT)) as watcher:
        wait_until(lambda: reported(it).get("numbers", 0) > 100, "numbers arrive", 20)
        it.live("--strategy", "pre-copy")
        at, inside = reported(it)["last"], told(it)
        wait_until(lambda: reported(it)["last"] > at + 300 or reported(it)["error"], "on", 20)
        watcher.signal(signal.SIGTERM)
        watcher.wait()
    it.must_have_moved()
    seen, after = reported(it), told(it)
    assert seen["error"] == ""
    assert seen["out_of_sequence"] == 0
    assert seen["numbers"] == seen["last"]
    assert after["out_of_sequence"] == after["went_back"] == 0
    for name in ("alarms", "timers", "passed"):
        assert after[name] > inside[name], f"{name} stand still"
    for number, (seed, steps, digest) in enumerate(after["chains"]):
        assert steps > inside["chains"][number][1], f"thread {number} stands still"
        assert digest == end_of_chain(seed, steps)
    it.file("check", it.host2).touch()
    assert it.wait_for("verdict", it.host2) == "ok"


def told(it: Subject) -> dict[str, Any]:
    """Return what the program over there says of itself."""
    return json.loads(it.wait_for("said", it.host2))  # type: ignore[no-any-return]


def end_of_chain(seed: str, steps: int) -> str:
    """Return the digest at the end of a chain."""
    digest = seed.encode()
    for _ in range(steps):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()
