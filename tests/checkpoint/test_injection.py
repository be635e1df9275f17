"""A userfaultfd taken from a process, which must not be able to tell."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrate import syscalls
from migrate.checkpoint import procfs
from migrate.checkpoint.injection import CannotInject, open_userfaultfd
from tests.checkpoint.conftest import compiled, eventually

pytestmark = pytest.mark.root

Start = Callable[..., "subprocess.Popen[bytes]"]
WAITS = ("nanosleep", "poll", "select", "futex", "read", "epoll", "sigwait", "compute")
TIMES = 200
USERFAULTFD = "anon_inode:[userfaultfd]"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("waiter"), "waiter")


@pytest.fixture
def start(program: Path) -> Iterator[Start]:
    """Starts waiter.c, and waits until it waits; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(kind: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([program, kind], stdin=pipe, stdout=pipe)
        started.append(process)
        assert heard(process) == "ready"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[bytes]) -> str:
    """Return the next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def last_words(process: subprocess.Popen[bytes]) -> str:
    """Let a process end, and return what it found."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended by itself
        process.stdin.write(b"\n")
        process.stdin.flush()
    return heard(process)


def take(pid: int) -> None:
    """Take a userfaultfd, see that it is one and of nobody's own, and close it."""
    descriptor = open_userfaultfd(pid)
    try:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == USERFAULTFD
        assert not os.get_inheritable(descriptor)
        assert USERFAULTFD not in links(pid)
    finally:
        os.close(descriptor)


def links(pid: int) -> list[str]:
    """Return what a process's descriptors are."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def state(pid: int) -> str:
    """Return the letter that ps shows."""
    return procfs.status(pid)["State"][0]


def is_let_alone(pid: int) -> bool:
    """Tell whether no thread of a process has a tracer."""
    tracers = []
    for thread in map(int, os.listdir(f"/proc/{pid}/task")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            tracers.append(procfs.status(thread)["TracerPid"])
    return set(tracers) == {"0"}


@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_ends_in_its_time_and_without_an_error(start: Start, kind: str) -> None:
    process = start(kind)
    taken = 0
    try:
        while taken < TIMES:
            take(process.pid)
            taken += 1
    except CannotInject:
        eventually(lambda: state(process.pid) == "Z", "it has ended: this machine is busy")
    assert taken
    assert last_words(process) == "whole"


def test_a_crowd_of_threads_and_signals_takes_no_harm(start: Start) -> None:
    """Also where threads come and go, and signals by the thousand wait for a handler."""
    process = start("crowd")
    for _ in range(TIMES):
        take(process.pid)
    eventually(lambda: is_let_alone(process.pid), "it has no tracer")
    assert last_words(process) == "whole"


def test_a_stopped_process_stays_stopped_until_it_is_continued(start: Start) -> None:
    process = start("nanosleep")
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: state(process.pid) == "T", "it stops")
    for _ in range(20):
        take(process.pid)
        eventually(lambda: state(process.pid) == "T", "it is stopped again")
    time.sleep(0.05)
    assert state(process.pid) == "T"
    process.send_signal(signal.SIGCONT)
    eventually(lambda: state(process.pid) != "T", "it goes on")
    assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)


def test_stops_and_continues_that_come_in_between_count(start: Start) -> None:
    """SIGSTOP cannot be blocked: it may come while the call is made."""
    process = start("crowd")
    done = threading.Event()

    def stop_and_go() -> None:
        while not done.is_set():
            os.kill(process.pid, signal.SIGSTOP)  # `send_signal` would wait for it, too
            time.sleep(0.0005)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.0007)
        os.kill(process.pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        for _ in range(TIMES):
            os.close(open_userfaultfd(process.pid))
    finally:
        done.set()
        thread.join()
    eventually(lambda: state(process.pid) == "T", "the last stop counts")
    assert USERFAULTFD not in links(process.pid)
    process.send_signal(signal.SIGCONT)
    eventually(lambda: state(process.pid) != "T", "it goes on")


@pytest.mark.parametrize("kind", ["sandbox", "half"])
def test_a_filter_that_kills_for_it_does_not_see_it(start: Start, kind: str) -> None:
    process = start(kind)
    for _ in range(20):
        take(process.pid)
    assert last_words(process) == "whole"
    assert process.wait() == 0


def test_a_critical_section_is_still_aborted_afterwards(start: Start) -> None:
    process = start("section")
    for _ in range(20):
        try:
            take(process.pid)
        except CannotInject as error:
            assert "no thread of it can be made to call" in str(error)  # noqa: PT017 - either
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    assert last_words(process) == "whole"


def test_a_full_table_of_descriptors_is_no_harm(start: Start) -> None:
    process = start("nanosleep")
    limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    for _ in range(5):
        with pytest.raises(CannotInject, match="too many open files"):
            open_userfaultfd(process.pid)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
    take(process.pid)
    assert last_words(process) == "whole"


def test_a_process_whose_first_thread_has_ended_runs_on(start: Start) -> None:
    process = start("orphan")
    assert state(process.pid) == "Z"
    with pytest.raises(CannotInject, match=f"process {process.pid}"):
        open_userfaultfd(process.pid)
    eventually(lambda: is_let_alone(process.pid), "it has no tracer")
    assert last_words(process) == "whole"


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Be the tracer of a process."""
    seize, detach = 0x4206, 17
    interrupt, wall = 0x4207, 0x40000000
    syscalls.ptrace(seize, pid)
    try:
        yield
    finally:
        syscalls.ptrace(interrupt, pid)
        os.waitpid(pid, wall)
        syscalls.ptrace(detach, pid)


def test_a_process_with_a_tracer_is_refused(start: Start) -> None:
    process = start("nanosleep")
    with traced(process.pid), pytest.raises(CannotInject, match="not permitted"):
        open_userfaultfd(process.pid)
    take(process.pid)
    assert last_words(process) == "whole"


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process, as this machine can."""
    top = Path("/sys/fs/cgroup/freezer")
    is_v1 = top.is_dir()
    group = (top if is_v1 else top.parent) / f"frozen-{pid}"
    group.mkdir()
    name, words = ("freezer.state", ("FROZEN", "THAWED")) if is_v1 else ("cgroup.freeze", "10")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / name).write_text(words[0])
        if is_v1:
            eventually(lambda: (group / name).read_text() == "FROZEN\n", "it is frozen")
        else:
            eventually(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "it is frozen")
        yield
    finally:
        (group / name).write_text(words[1])
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@pytest.mark.parametrize("kind", ["nanosleep", "crowd"])
def test_a_frozen_process_is_refused_and_runs_on_after_a_thaw(start: Start, kind: str) -> None:
    process = start(kind)
    with frozen(process.pid):
        for _ in range(2):
            with pytest.raises(CannotInject, match="does not stop"):
                open_userfaultfd(process.pid)
            eventually(lambda: is_let_alone(process.pid), "it has no tracer")
    take(process.pid)
    assert state(process.pid) in "RS"
    # The freezer, not we, ends a wait of the crowd by EINTR; nanosleep goes on.
    if kind == "nanosleep":
        assert last_words(process) == "whole"


def test_a_process_that_ends_meanwhile_is_an_ordinary_error(program: Path) -> None:
    ends = 0
    for step in range(60):
        process = subprocess.Popen([program, "nanosleep"], stdout=subprocess.PIPE)
        assert heard(process) == "ready"
        timer = threading.Timer(step * 0.00005, os.kill, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            os.close(open_userfaultfd(process.pid))
        except CannotInject:
            ends += 1
        timer.join()
        process.communicate()
    with pytest.raises(CannotInject, match=f"process {process.pid}"):
        open_userfaultfd(process.pid)
    assert ends


def test_one_that_loses_the_processor_meanwhile_is_waited_for() -> None:
    """Let go on its way through the call, it would run on with registers not its own."""
    compute = ["sh", "-c", "while :; do :; done"]
    processor = {min(os.sched_getaffinity(0))}
    with contextlib.ExitStack() as stack:
        seldom, *often = (stack.enter_context(_ended(subprocess.Popen(compute))) for _ in range(3))
        for each in (seldom, *often):
            os.sched_setaffinity(each.pid, processor)
        os.sched_setscheduler(seldom.pid, os.SCHED_IDLE, os.sched_param(0))
        for step in range(12):
            for each in often:
                each.send_signal(signal.SIGSTOP)
            eventually(lambda: {state(each.pid) for each in often} == {"T"}, "it is alone")
            for each in often:
                timer = threading.Timer(step * 0.0001, each.send_signal, (signal.SIGCONT,))
                timer.start()
            with contextlib.suppress(CannotInject):  # it does not even stop
                take(seldom.pid)
        assert seldom.poll() is None
        assert USERFAULTFD not in links(seldom.pid)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()
