"""Signals: what they are called, and whom they reach."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from migrate.errors import CgroupError, UsageError, WrongStatus
from migrate.runtime import cgroup
from migrate.runtime.kill import kill, signal_number
from tests.runtime.test_state import record_of


@pytest.mark.parametrize("number", [int(each) for each in signal.Signals])
def test_every_signal_is_known_by_name_and_number(number: int) -> None:
    name = signal.Signals(number).name
    for text in (name, name.lower(), name.removeprefix("SIG"), str(number)):
        assert signal_number(text) == number


def test_real_time_signals_count_from_the_first() -> None:
    assert signal_number("RTMIN+3") == signal.SIGRTMIN + 3
    assert signal_number("SIGRTMIN") == signal.SIGRTMIN
    assert signal_number("0") == 0


@pytest.mark.parametrize(
    "text", ["", "FROB", "SIG", "_DFL", "SIG_IGN", "-9", "65", "999", "TERM+1", "RTMIN+99", "9.0"]
)
def test_an_unknown_signal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown signal"):
        signal_number(text)


def test_a_signal_reaches_the_recorded_process_only() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        record = record_of("a", process.pid)
        kill(record, 0)
        stale = record_of("a", process.pid, pid_start_ticks=1)
        with pytest.raises(WrongStatus, match="container not running"):
            kill(stale, signal.SIGKILL)
        assert process.poll() is None
        kill(record, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with pytest.raises(WrongStatus):
        kill(record, signal.SIGTERM)


@pytest.mark.root
def test_a_group_that_holds_this_process_is_never_signalled() -> None:
    own = {key: tree.own for key, tree in cgroup.hierarchies().items()}
    record = record_of("a", os.getpid(), cgroup=own)
    with pytest.raises(CgroupError, match="not the container's"):
        kill(record, signal.SIGTERM, everyone=True)
    with pytest.raises(CgroupError, match="not the container's"):
        cgroup.freeze(own)
    with pytest.raises(CgroupError, match="not the container's"):
        cgroup.kill(own)
