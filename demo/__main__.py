"""`make demo`: a busybox container moves from host1 to host2 while it is being used.

Lives here: the story, told by commands that are really run and numbers that are
really measured. The hosts are `tests.support.hosts`; they and everything in them
are gone at the end, also after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from demo.transcript import Transcript
from tests.support import leaks
from tests.support.bundle import make_rootfs
from tests.support.folders import CHECKOUT
from tests.support.hosts import Host, Site, wait_until
from tests.support.payload import Status
from tests.support.processes import CommandError, Process

ID = "mybusybox"
BUNDLE = f"/srv/{ID}"
ADDRESS = "10.77.0.50"
PORT = 7000
RUNTIME = os.environ.get("RUNTIME", "migrate")
REPORT = "/srv/connection"


def make_bundle(host: Host, say: Transcript) -> Path:
    """Make the bundle as a person would, on host1, and return it as seen from here."""
    bundle = host.folder(BUNDLE)
    make_rootfs(bundle / "rootfs")
    say.command(host, f"ls -C {BUNDLE}/rootfs")
    say.command(host, f"cd {BUNDLE} && {RUNTIME} spec", cwd=BUNDLE)
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["payload", "--status", "/status", "--port", str(PORT)]
    config["root"]["readonly"] = False
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = host.add_network(ID, ADDRESS)
    path.write_text(json.dumps(config, indent=2))
    say.note(
        f"In config.json: terminal false, network /run/netns/{ID} ({ADDRESS}), args"
        f' "{" ".join(config["process"]["args"])}":\na counter that ticks once a millisecond,'
        " and sends every tick's number to whoever connects."
    )
    return bundle


def read_report(client: Host) -> dict[str, Any]:
    """Return what the connection has seen so far, or {} before it saw anything."""
    path = client.folder(REPORT)
    return json.loads(path.read_text()) if path.exists() else {}


def connect(client: Host) -> Process:
    """Open the TCP connection that is to survive."""
    command = [sys.executable, "-m", "tests.support.connection", ADDRESS, str(PORT), REPORT]
    process = client.popen(command, env={"PYTHONPATH": str(CHECKOUT)})
    wait_until(lambda: read_report(client).get("numbers", 0) > 100, "the container answers")
    return process


def status_of(host: Host) -> Status:
    """Return the payload's own account of itself."""
    path = host.folder(f"{BUNDLE}/rootfs/status")
    status: Status = wait_until(lambda: Status.read(path), "the container's status")
    return status


def move(site: Site, say: Transcript) -> None:
    """Tell the whole story."""
    host1, host2, client = site.host1, site.host2, site.client
    say.title("Two hosts on this machine, and a client in a third place")
    say.note(
        "host1 10.77.0.1, host2 10.77.0.2, client 10.77.0.100: each has processes, mounts,"
        "\ncgroups, a network and an sshd of its own, joined by a switch."
    )
    before = leaks.of_host(host1)

    say.title("A bundle out of busybox, and a container on host1")
    make_bundle(host1, say)
    say.creation(host1, f"{RUNTIME} create --bundle {BUNDLE} {ID}")
    say.command(host1, f"{RUNTIME} start {ID}")
    say.command(host1, f"{RUNTIME} list")

    say.title("A TCP connection from the client")
    with connect(client) as connection:
        seen = read_report(client)
        say.line(client, f"connected to {ADDRESS}:{PORT} from port {seen['local_port']}")
        say.line(client, f"the counter is at {seen['last']}, {seen['numbers']} numbers so far")

        say.title("The move")
        host1.run([RUNTIME, "kill", ID, "USR1"])  # the container forgets older gaps
        start = status_of(host1).ticks
        wait_until(lambda: status_of(host1).ticks > start + 50, "it still ticks")
        started = time.monotonic()
        say.command(host1, f"{RUNTIME} live {ID} --to host2")
        took_seconds = time.monotonic() - started
        arrived = status_of(host2)
        wait_until(
            lambda: (
                status_of(host2).ticks > arrived.ticks + 300
                and read_report(client)["last"] > arrived.ticks + 300
            ),
            "it goes on on host2",
        )
        connection.signal(signal.SIGTERM)
        connection.wait()

    say.title("Where it is now")
    say.command(host1, f"{RUNTIME} list")
    say.command(host2, f"{RUNTIME} list")
    judge(site, say, seen, took_seconds)

    say.title("The end")
    say.command(host2, f"{RUNTIME} delete --force {ID}")
    if (host1.folder(f"/run/netns/{ID}")).exists():
        host1.remove_network(ID)
    after = leaks.left(before, lambda: leaks.of_host(host1))
    say.fact("left on host1", ", ".join(kept(after)) or "no process, mount, cgroup, link or rule")


def judge(site: Site, say: Transcript, first: dict[str, Any], took_seconds: float) -> None:
    """Show by numbers that nobody noticed; fail where somebody did.

    Raises:
        CommandError: a promise of this project was broken.
    """
    seen = read_report(site.client)
    own = status_of(site.host2)
    expected = seen["last"] - seen["first"] + 1
    whole = seen["numbers"] == expected and seen["out_of_sequence"] == 0
    same = seen["local_port"] == first["local_port"] and seen["error"] == ""
    listed = site.host1.run([RUNTIME, "list", "-q"]).stdout.split()
    say.title("What the users noticed")
    say.fact(
        "counter",
        f"{seen['numbers']} numbers from {seen['first']} to {seen['last']}: "
        + ("none repeated, none missing" if whole else f"{expected} expected"),
    )
    say.fact(
        "connection",
        f"still the one from port {seen['local_port']}" if same else f"broken: {seen['error']}",
    )
    say.fact("downtime", f"{own.largest_gap_us / 1000:.0f} ms, as the container itself saw it")
    say.fact("", f"{seen['largest_gap_ms']:.0f} ms, as the client saw it")
    say.fact("in all", f"{took_seconds:.1f} s for the command")
    say.fact("host1", "still has it" if listed else "no longer has it")
    if not (whole and same) or listed:
        message = "the move was noticed"
        raise CommandError(message)


def kept(lines: list[str]) -> list[str]:
    """Return what is left beside the files that were put there on purpose."""
    return [line for line in lines if not line.startswith("file: ")]


def _stop(_number: int, _frame: object) -> NoReturn:
    """Leave through every `with` block."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; 0 when all it promises was seen."""
    if os.geteuid() != 0:
        sys.stderr.write("the demo needs root: it makes namespaces and containers\n")
        return 1
    signal.signal(signal.SIGTERM, _stop)
    started = time.monotonic()
    say = Transcript(sys.stdout)
    try:
        with Site() as site:
            move(site, say)
    except KeyboardInterrupt:
        say.note("stopped; hosts and container are gone")
        return 130
    except (CommandError, TimeoutError) as problem:
        say.failure(str(problem))
        return 1
    say.fact("demo", f"{time.monotonic() - started:.1f} s; hosts, client and switch are gone too")
    return 0


if __name__ == "__main__":
    sys.exit(main())
