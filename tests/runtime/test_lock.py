"""One command at a time on one container."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migrate.errors import ContainerNotFound, Locked
from migrate.runtime import state
from tests.runtime.test_state import make, record_of

if TYPE_CHECKING:
    from migrate.runtime.state import Store

PACKAGE_PARENT = str(Path(state.__file__).parents[2])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return state.Store(str(tmp_path / "root"))


def test_a_second_command_waits_for_the_first(store: Store) -> None:
    make(store, "a")
    order = []

    def second() -> None:
        with store.lock("a"):
            order.append("second")

    with store.lock("a"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_waiting_has_an_end_that_names_the_holder(store: Store) -> None:
    make(store, "a")
    with (
        store.lock("a", command="start"),
        pytest.raises(Locked, match=rf"in use by `migrate start a` \(pid {os.getpid()}\)"),
        store.lock("a", timeout_seconds=0.02),
    ):
        pass


def test_there_is_no_lock_without_a_container(store: Store) -> None:
    with pytest.raises(ContainerNotFound), store.lock("a"):
        pass
    assert not os.path.exists(store.root)


def test_a_create_that_failed_leaves_no_directory(store: Store) -> None:
    def create() -> None:
        with store.lock("a", create=True):
            Path(store.reserve("a"), "config.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create()
    assert os.listdir(store.root) == []


def test_whoever_waits_for_a_deleted_container_learns_it_is_gone(store: Store) -> None:
    make(store, "a")
    heard: list[BaseException] = []

    def wait() -> None:
        try:
            with store.lock("a"):
                pass
        except ContainerNotFound as error:
            heard.append(error)

    with store.lock("a"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.02)
        store.remove("a")
    thread.join()
    assert len(heard) == 1


def test_a_killed_holder_lets_go(store: Store) -> None:
    make(store, "a")
    program = (
        f"import sys, time; sys.path.append({PACKAGE_PARENT!r})\n"
        "from migrate.runtime.state import Store\n"
        f"with Store({store.root!r}).lock('a'): print('held', flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert store.is_locked("a")
        holder.kill()
        holder.wait()
        with store.lock("a", timeout_seconds=2):
            pass


def test_of_sixteen_that_create_at_once_one_wins(store: Store) -> None:
    program = (
        f"import sys; sys.path.append({PACKAGE_PARENT!r})\n"
        "from migrate.errors import ContainerExists\n"
        "from migrate.runtime.state import Store\n"
        f"store, record = Store({store.root!r}), {record_of('a')!r}\n"
        "sys.stdin.read()\n"
        "try:\n"
        "    with store.lock('a', create=True):\n"
        "        store.reserve('a'); store.save(record); sys.exit(0)\n"
        "except ContainerExists: sys.exit(7)\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-IS", "-c", program], stdin=subprocess.PIPE)
        for _ in range(16)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    assert sorted(racer.wait(60) for racer in racers) == [0] + [7] * 15


def test_a_container_that_is_being_moved_is_left_alone(store: Store) -> None:
    make(store, "a")
    guard = Path(store.path("a"), "migration")
    guard.write_text("to host2\n")
    with pytest.raises(Locked, match='container "a" is being moved to host2'), store.lock("a"):
        pass
    with pytest.raises(Locked):
        store.refuse_moving("a")
    guard.unlink()
    store.refuse_moving("a")
    with store.lock("a"):
        pass


@pytest.mark.root
def test_a_full_disk_keeps_nobody_from_deleting(tmp_path: Path) -> None:
    program = (
        f"import os, sys; sys.path.append({PACKAGE_PARENT!r})\n"
        "from migrate import syscalls\n"
        "from migrate.runtime.delete import delete\n"
        "from migrate.runtime.state import Store\n"
        "syscalls.unshare(syscalls.CLONE_NEWNS)\n"
        "syscalls.mount(None, '/', None, syscalls.MS_PRIVATE | 0x4000)\n"
        f"syscalls.mount('tmpfs', {str(tmp_path)!r}, 'tmpfs', 0, 'size=64k')\n"
        f"store, record = Store({str(tmp_path)!r} + '/root'), {record_of('a')!r}\n"
        "with store.lock('a', create=True): store.reserve('a'); store.save(record)\n"
        f"fd = os.open({str(tmp_path)!r} + '/full', os.O_CREAT | os.O_WRONLY)\n"
        "try:\n"
        "    while os.write(fd, bytes(4096)): pass\n"
        "except OSError: pass\n"
        "try: store.save(record); sys.exit('saved')\n"
        "except OSError as error: assert error.errno == 28\n"
        "assert store.load('a') == record\n"
        "delete(store, 'a')\n"
        "assert os.listdir(store.root) == []\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-IS", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


# A `create` that fails again and again: each time, the directory is made and removed.
FAILING = f"""
import sys, time
sys.path.append({PACKAGE_PARENT!r})
from migrate.runtime.state import Store
end = time.monotonic() + 2
while time.monotonic() < end:
    with Store(sys.argv[1]).lock("a", create=True):
        pass
"""


def test_creates_that_fail_at_once_do_not_stumble_over_each_other(store: Store) -> None:
    argv = [sys.executable, "-I", "-S", "-c", FAILING, store.root]
    at_work = [subprocess.Popen(argv, stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1] for process in at_work] == [b""] * 4
    assert os.listdir(store.root) == []
