"""A program with threads and timers, for a container: the distribution's Python runs it.

    python3 threads.py PORT

Chains of digests, one a thread, so that a damaged page or a repeated step shows; a timer of
the kernel (SIGALRM) and threads that start one another by `threading.Timer`; a queue between
two threads, and one that numbers lines for whoever connects. Keeps /said, JSON of all of it,
new each 50 ms; `chains` are (seed, steps, digest). /check makes it write /verdict: `ok`, or
what is wrong with its memory.

Must not import anything of the project: the container has none of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

CHAINS = 4
BLOCKS = 24
BLOCK_BYTES = 1 << 20
LINE = "{:012}\n"

said: dict[str, Any] = {
    "chains": [[f"seed-{number}", 0, ""] for number in range(CHAINS)],
    "alarms": 0,
    "timers": 0,
    "clock": 0.0,
    "went_back": 0,
    "passed": 0,
    "out_of_sequence": 0,
}
handed = queue.Queue[int](maxsize=64)
blocks = [random.Random(number).randbytes(BLOCK_BYTES) for number in range(BLOCKS)]


def chain(number: int) -> None:
    """Take steps of a chain, each of which is of the one before."""
    entry = said["chains"][number]
    digest = entry[0].encode()
    while True:
        digest = hashlib.sha256(digest).digest()
        said["chains"][number] = [entry[0], said["chains"][number][1] + 1, digest.hex()]
        time.sleep(0.0005)


def hand_over() -> None:
    """Put numbers into the queue."""
    number = 0
    while True:
        number += 1
        handed.put(number)
        time.sleep(0.001)


def take_over() -> None:
    """Take them out, and count those that are not the next."""
    while True:
        number = handed.get()
        said["out_of_sequence"] += number != said["passed"] + 1
        said["passed"] = number


def rewind() -> None:
    """Be one timer, which is a thread that starts the next."""
    now = time.monotonic()
    said["went_back"] += now < said["clock"]
    said["clock"] = now
    said["timers"] += 1
    timer = threading.Timer(0.02, rewind)
    timer.daemon = True
    timer.start()


def serve(listener: socket.socket) -> None:
    """Number lines for one who has connected."""
    connection, _ = listener.accept()
    number = 0
    while True:
        number += 1
        connection.sendall(LINE.format(number).encode())
        time.sleep(0.002)


def alarm(*_: object) -> None:
    """Count a signal of the kernel's timer."""
    said["alarms"] += 1


def verdict() -> str:
    """Return what is wrong with the blocks made at the start."""
    wrong = [
        str(number)
        for number, block in enumerate(blocks)
        if block != random.Random(number).randbytes(BLOCK_BYTES)
    ]
    return f"blocks {' '.join(wrong)} are not what they were" if wrong else "ok"


def write(path: str, text: str) -> None:
    """Have a file with that text, whole at each moment."""
    with open(f"{path}.new", "w") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def main() -> None:
    """Start everything and say what happens."""
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    listener = socket.create_server(("", int(sys.argv[1])))
    works: list[Callable[[], None]] = [hand_over, take_over, partial(serve, listener)]
    works += [partial(chain, number) for number in range(CHAINS)]
    for work in works:
        threading.Thread(target=work, daemon=True).start()
    rewind()
    while True:
        write("/said", json.dumps(said))
        if os.path.exists("/check"):
            os.unlink("/check")
            write("/verdict", verdict())
        time.sleep(0.05)


if __name__ == "__main__":
    main()
