"""Containers under containerd, by its shim: run, exec, pause, metrics, checkpoint, restore."""

from __future__ import annotations

import pytest

from tests.support.hosts import wait_until

from .containerd import IMAGE, Containerd, runtime_options

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.01; done"


def count(containerd: Containerd, name: str) -> int:
    """How far the counter is."""
    return int(
        wait_until(lambda: containerd.exec(name, "cat", "/count").stdout, "the counter counts")
    )


def test_run_prints_what_the_container_prints(containerd: Containerd) -> None:
    done = containerd.run("box", "sh", "-c", "echo one; echo two >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "two\n")


def test_the_exit_status_is_the_containers(containerd: Containerd) -> None:
    assert containerd.run("box", "sh", "-c", "exit 7").returncode == 7


def test_a_program_that_is_not_there_is_named(containerd: Containerd) -> None:
    done = containerd.run("box", "no-such-program")
    assert 'exec: "no-such-program": executable file not found in $PATH' in done.stderr


def test_a_container_has_the_default_filter_of_system_calls(containerd: Containerd) -> None:
    done = containerd.run(
        "box", "grep", "Seccomp:", "/proc/self/status", options=["--seccomp", "--rm"]
    )
    assert done.stdout.split() == ["Seccomp:", "2"], done.stderr


def test_run_gives_a_terminal_of_the_windows_size(containerd: Containerd) -> None:
    words = ["run", "--rm", "-t", *runtime_options(), IMAGE, "box", "sh"]
    with containerd.terminal(*words, size=(33, 99)) as terminal:
        terminal.wait_for("# ")
        terminal.type("tty; stty size; exit 6\n")
        terminal.wait_for("/dev/pts/0")
        terminal.wait_for("33 99")
        assert terminal.wait() == 6


def test_exec_gives_a_terminal_too(containerd: Containerd) -> None:
    containerd.start("box")
    words = ["task", "exec", "-t", "--exec-id", "one", "box", "sh"]
    with containerd.terminal(*words, size=(40, 120)) as terminal:
        terminal.wait_for("# ")
        terminal.type("stty size; exit 8\n")
        terminal.wait_for("40 120")
        assert terminal.wait() == 8


def test_exec_runs_a_further_process(containerd: Containerd) -> None:
    containerd.start("box")
    assert containerd.exec("box", "cat", "/proc/1/cmdline").stdout == "sleep\x0010000\x00"
    assert containerd.exec("box", "sh", "-c", "exit 9").returncode == 9
    assert "executable file not found" in containerd.exec("box", "no-such-program").stderr


def test_a_paused_container_stands_still(containerd: Containerd) -> None:
    containerd.start("box", "sh", "-c", COUNTER)
    count(containerd, "box")
    containerd("task", "pause", "box")
    assert containerd.status("box") == "PAUSED"
    containerd("task", "resume", "box")
    assert containerd.status("box") == "RUNNING"
    first = count(containerd, "box")
    wait_until(lambda: count(containerd, "box") > first, "it counts on")


def test_processes_and_metrics_are_the_containers(containerd: Containerd) -> None:
    containerd.start("box", "sh", "-c", "sleep 10000; true", options=["--memory-limit", "33554432"])
    wait_until(lambda: len(containerd.says("task", "ps", "box").splitlines()) == 3, "two processes")
    metrics = dict(
        line.split()
        for line in containerd.says("task", "metrics", "box").splitlines()
        if line.startswith(("memory", "pids"))
    )
    assert metrics["memory.limit_in_bytes"] == "33554432"
    assert metrics["pids.current"] == "2"


def test_a_container_without_memory_left_is_told_of(containerd: Containerd) -> None:
    with containerd.events() as seen:
        script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo $?"
        options = ["--rm", "--memory-limit", "8388608"]
        assert containerd.run("box", "sh", "-c", script, options=options).stdout == "137\n"
        wait_until(lambda: "/tasks/oom" in seen(), "the event is there")


@pytest.mark.parametrize("everyone", [False, True])
def test_a_signal_ends_the_container(containerd: Containerd, everyone: bool) -> None:  # noqa: FBT001
    containerd.start("box", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    options = ["--all"] if everyone else []
    containerd("task", "kill", *options, "--signal", "TERM", "box")
    wait_until(lambda: containerd.status("box") == "STOPPED", "it stops")
    assert "5" in containerd("task", "delete", "box", check=False).stderr


def test_a_container_is_checkpointed_and_restored(containerd: Containerd) -> None:
    containerd.start("box", "sh", "-c", COUNTER)
    saved = count(containerd, "box")
    containerd("container", "checkpoint", "--rw", "--image", "--task", "box", "localhost/saved:1")
    first = count(containerd, "box")
    wait_until(lambda: count(containerd, "box") > first, "it was left running")
    containerd.remove("box")
    containerd("container", "restore", "--rw", "--live", "again", "localhost/saved:1")
    assert containerd.status("again") == "RUNNING"
    assert count(containerd, "again") >= saved
    first = count(containerd, "again")
    wait_until(lambda: count(containerd, "again") > first, "it counts on")


def test_a_checkpoint_may_end_the_container(containerd: Containerd) -> None:
    containerd.start("box", "sh", "-c", COUNTER)
    count(containerd, "box")
    folder = containerd.folder / "images"
    containerd("task", "checkpoint", "--exit", "--image-path", folder, "box")
    assert (folder / "inventory.img").exists()
    wait_until(lambda: containerd.status("box") != "RUNNING", "it has ended")
