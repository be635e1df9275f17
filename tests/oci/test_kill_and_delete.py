"""kill, delete, pause and resume."""

from __future__ import annotations

import os

import pytest

from .driver import (
    Config,
    Runtime,
    cgroups_named,
    is_alive,
    says_unknown,
    wait_for_death,
)

TRAPS = "trap 'echo got-{0}' {0}; echo up; while :; do sleep 0.02; done"


def without_pid_namespace(config: Config) -> None:
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [n for n in namespaces if n["type"] != "pid"]


@pytest.mark.parametrize(
    ("argument", "trapped"),
    [("SIGUSR1", "USR1"), ("USR2", "USR2"), ("usr1", "USR1"), ("10", "USR1"), ("sigHUP", "HUP")],
)
def test_kill_takes_names_and_numbers(runtime: Runtime, argument: str, trapped: str) -> None:
    container = runtime.started(runtime.bundle("sh", "-c", TRAPS.format(trapped)))
    container.wait_for_output("up")
    container("kill", argument)
    container.wait_for_output(f"got-{trapped}")


def test_kill_sends_term_by_default(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("sh", "-c", TRAPS.format("TERM")))
    container.wait_for_output("up")
    container("kill")
    container.wait_for_output("got-TERM")


def test_kill_reaches_a_real_time_signal(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("sh", "-c", TRAPS.format("36")))
    container.wait_for_output("up")
    container("kill", "36")
    container.wait_for_output("got-36")


@pytest.mark.parametrize("name", ["FOO", "SIGFOO", "-1", "0x9", "9.0", "65", "999999999999"])
def test_an_unknown_signal_is_refused_and_nothing_is_sent(runtime: Runtime, name: str) -> None:
    container = runtime.started()
    runtime.refuses("kill", container.id, name)
    assert container.status == "running"


def test_a_created_container_can_be_killed(runtime: Runtime) -> None:
    container = runtime.create()
    container("kill", "KILL")
    container.wait_until("stopped")


def test_kill_of_a_stopped_container_says_that_it_is_not_running(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("true"))
    container.wait_until("stopped")
    assert "container not running" in runtime.refuses("kill", container.id)


def test_kill_all_reaches_every_process_of_a_shared_pid_namespace(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "sleep 9999 & echo up; wait", change=without_pid_namespace)
    container = runtime.started(bundle)
    container.wait_for_output("up")
    pids = container.pids()
    assert len(pids) == 2
    container("kill --all", "KILL")
    for pid in pids:
        wait_for_death(pid)


def test_delete_takes_the_processes_a_shared_pid_namespace_kept(runtime: Runtime) -> None:
    bundle = runtime.bundle(
        "sh", "-c", "setsid sleep 9998 & echo up; wait", change=without_pid_namespace
    )
    container = runtime.started(bundle)
    container.wait_for_output("up")
    pids = container.pids()
    container("delete --force")
    for pid in pids:
        wait_for_death(pid)


def test_delete_is_refused_while_the_container_runs(runtime: Runtime) -> None:
    container = runtime.started()
    error = runtime.refuses("delete", container.id)
    assert "cannot delete container" in error
    assert "not stopped" in error
    assert is_alive(container.pid)


@pytest.mark.parametrize("status", ["created", "running", "paused", "stopped"])
def test_delete_force_removes_a_container_in_any_status(runtime: Runtime, status: str) -> None:
    container = runtime.create()
    pid = container.pid
    if status != "created":
        container("start")
    if status == "paused":
        container("pause")
    if status == "stopped":
        container("kill", "KILL")
        container.wait_until("stopped")
    container("delete --force")
    assert not is_alive(pid)
    assert says_unknown(runtime.refuses("state", container.id))
    assert cgroups_named(container.id) == []


def test_delete_takes_a_container_that_was_only_created(runtime: Runtime) -> None:
    container = runtime.create()
    pid = container.pid
    container("delete")
    wait_for_death(pid)
    assert runtime.ids() == []


def test_delete_force_of_nothing_succeeds(runtime: Runtime) -> None:
    runtime.ok("delete", "--force", "oci-nobody")


def test_pause_stops_every_process_and_resume_lets_them_go_on(runtime: Runtime) -> None:
    script = "while :; do echo tick; sleep 0.01; done"
    container = runtime.started(runtime.bundle("sh", "-c", script))
    container.wait_for_output("tick")
    container("pause")
    before = container.written()
    # A process that still ran would write within these two waits of a child's sleep.
    os.sched_yield()
    container("ps")
    assert container.written() == before
    container("resume")
    container.wait_for_output(before + "tick")


def test_pause_and_resume_out_of_turn_are_refused(runtime: Runtime) -> None:
    container = runtime.started()
    assert "not paused" in runtime.refuses("resume", container.id)
    container("pause")
    assert "not running" in runtime.refuses("pause", container.id)
    container("resume")
    container("kill", "KILL")
    container.wait_until("stopped")
    assert "not running" in runtime.refuses("pause", container.id)


def test_a_signal_sent_while_paused_arrives_after_resume(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("sh", "-c", TRAPS.format("USR1")))
    container.wait_for_output("up")
    container("pause")
    container("kill", "USR1")
    assert "got" not in container.written()
    container("resume")
    container.wait_for_output("got-USR1")


def test_a_paused_container_can_be_killed(runtime: Runtime) -> None:
    container = runtime.started()
    pid = container.pid
    container("pause")
    container("kill", "KILL")
    wait_for_death(pid)
    container.wait_until("stopped")
