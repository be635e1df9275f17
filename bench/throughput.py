"""How much goes over the link in a second, beside `cat | ssh`.

    python -m bench.throughput FILE HOST RUNS RESULT

Lives here: sending one file by each way in turn. Runs inside a host; writes JSON to
RESULT: way -> seconds of each run. `bench.sink` is on the other host. What is timed begins
when somebody has logged in and ends when the other side has read everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from migrate.transport.link import Link
from migrate.transport.ssh import Program, Target, connect
from tests.support.folders import CHECKOUT

CAT = "cat | ssh"
WAYS: tuple[Program, ...] = ("paramiko", "openssh")
SINK = ("env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", "bench.sink")
STREAM = "bulk"
CHUNK_BYTES = 1 << 20
MOST_SECONDS = 120


def by_cat(path: str, host: str) -> float:
    """Send the file as one does by hand and return how long it took."""
    far = "echo ready; cat >/dev/null; echo done"
    with subprocess.Popen(["ssh", host, far], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdin is not None
        assert ssh.stdout is not None
        _expect(ssh.stdout.readline(), b"ready\n")
        began = time.monotonic()
        subprocess.run(["cat", path], check=True, stdout=ssh.stdin)
        ssh.stdin.close()
        _expect(ssh.stdout.readline(), b"done\n")
        return time.monotonic() - began


def _expect(line: bytes, wanted: bytes) -> None:
    if line != wanted:
        sys.exit(f"throughput: ssh said {line!r} where {wanted!r} was to come")


def by_link(path: str, host: str, program: Program) -> float:
    """Send the file over our own link and return how long it took."""
    with (
        connect(Target.parse(host), transport=program) as session,
        Link(session.run(SINK), "source") as link,
    ):
        link.handshake()
        began = time.monotonic()
        writer = link.open_stream(STREAM)
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                writer.give(chunk)
        writer.close(MOST_SECONDS)
        arrived = link.call("read", timeout_seconds=MOST_SECONDS)
        took = time.monotonic() - began
    if arrived != Path(path).stat().st_size:
        sys.exit(f"throughput: {arrived} bytes of {path} arrived by {program}")
    return took


def main() -> None:
    """Send the file by all ways in turn."""
    path, host, runs, result = sys.argv[1:]
    found: dict[str, list[float]] = {way: [] for way in (CAT, *WAYS)}
    for _ in range(int(runs)):
        found[CAT].append(by_cat(path, host))
        for program in WAYS:
            found[program].append(by_link(path, host, program))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
