"""A userfaultfd taken by a process of its own, whatever becomes of who has asked for it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.checkpoint.injection import CannotInject
from migrate.checkpoint.injector import Injector
from tests.checkpoint.conftest import compiled, eventually
from tests.support.folders import CHECKOUT

pytestmark = pytest.mark.root
USERFAULTFD = "anon_inode:[userfaultfd]"
# What the tool does, again and again.
ASKS = """
import os, sys
from migrate.checkpoint.injector import Injector
with Injector() as injector:
    while True:
        os.close(injector.open_userfaultfd(int(sys.argv[1])))
        print(flush=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("waiter"), "waiter")


@pytest.fixture
def crowd(program: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with many threads, which says at its end whether it was disturbed."""
    pipe = subprocess.PIPE
    with subprocess.Popen([program, "crowd"], stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def last_words(process: subprocess.Popen[bytes]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    return process.stdout.readline().decode().strip()


@pytest.fixture
def injector() -> Iterator[Injector]:
    with Injector() as made:
        yield made


def test_it_takes_one_after_the_other(crowd: subprocess.Popen[bytes], injector: Injector) -> None:
    taken = [injector.open_userfaultfd(crowd.pid) for _ in range(20)]
    for descriptor in taken:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == USERFAULTFD
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    assert last_words(crowd) == "whole"


def test_what_cannot_be_is_said_and_the_next_can(
    crowd: subprocess.Popen[bytes], injector: Injector
) -> None:
    with pytest.raises(CannotInject, match="process 4194305"):
        injector.open_userfaultfd((1 << 22) + 1)
    os.close(injector.open_userfaultfd(crowd.pid))


def test_an_injector_that_was_killed_is_an_ordinary_error(
    crowd: subprocess.Popen[bytes], injector: Injector
) -> None:
    os.close(injector.open_userfaultfd(crowd.pid))
    assert injector._process is not None
    injector._process.kill()
    injector._process.wait()
    for _ in range(2):
        with pytest.raises(CannotInject, match=f"process {crowd.pid}: the injector"):
            injector.open_userfaultfd(crowd.pid)
    assert last_words(crowd) == "whole"


def test_signals_of_a_terminal_do_not_reach_it(
    crowd: subprocess.Popen[bytes], injector: Injector
) -> None:
    os.close(injector.open_userfaultfd(crowd.pid))
    assert injector._process is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        injector._process.send_signal(number)
    assert os.getsid(injector._process.pid) != os.getsid(0)
    os.close(injector.open_userfaultfd(crowd.pid))


def test_who_has_asked_may_be_killed_at_any_time(crowd: subprocess.Popen[bytes]) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(12):
        asks = [sys.executable, "-c", ASKS, str(crowd.pid)]
        with subprocess.Popen(asks, stdout=subprocess.PIPE, cwd=CHECKOUT) as tool:
            assert tool.stdout is not None
            assert tool.stdout.readline() == b"\n"
            time.sleep(chance.random() / 50)
            tool.kill()
        eventually(lambda: not injectors(), "it ends when nobody is left to ask")
    assert last_words(crowd) == "whole"


def injectors() -> list[str]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"checkpoint.injector import main" in word for word in words):
            found.append(name)
    return found
