"""A container's life under podman: run, exec, stop, logs, pause, signals, exit statuses, hooks."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.hosts import wait_until

from .podman import Podman

PATIENT = "trap 'exit 5' TERM; trap 'echo got a signal' USR1; while :; do sleep 0.05; done"
SHARED = ("net", "ipc", "uts")


def test_the_runtime_is_found_and_its_version_read(podman: Podman) -> None:
    info = json.loads(podman.says("info", "--format", "json"))["host"]["ociRuntime"]
    assert info["name"] == "under-test"
    assert "version" in info["version"]
    assert "spec: " in info["version"]


def test_run_prints_what_the_container_prints_on_the_stream_it_does(podman: Podman) -> None:
    done = podman.run("sh", "-c", "echo one; echo two >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "two\n")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "sleep 10 & kill -9 $!; wait $!"), 137),
        (("no-such-program",), 127),
        (("/no/such/program",), 127),
        (("/etc/passwd",), 126),
    ],
)
def test_the_exit_status_is_the_containers(
    podman: Podman, command: tuple[str, ...], status: int
) -> None:
    done = podman.run(*command)
    assert done.returncode == status, done.stderr


def test_a_program_that_is_not_there_is_named(podman: Podman) -> None:
    assert (
        'exec: "no-such-program": executable file not found' in podman.run("no-such-program").stderr
    )


def test_a_container_lives_from_create_to_remove(podman: Podman) -> None:
    podman("create", "--name", "box", "localhost/busybox", "sh", "-c", PATIENT)
    assert podman.inspect("box", "{{.State.Status}}") == "created"
    podman("start", "box")
    assert podman.inspect("box", "{{.State.Status}}") == "running"
    podman("stop", "box")
    assert podman.inspect("box", "{{.State.Status}} {{.State.ExitCode}}") == "exited 5"
    podman("start", "box")
    podman("restart", "--time", "5", "box")
    assert podman.inspect("box", "{{.State.Status}}") == "running"
    podman("rm", "--force", "--time", "0", "box")
    assert podman("container", "exists", "box", check=False).returncode == 1


def test_init_makes_a_container_that_start_only_starts(podman: Podman) -> None:
    podman("create", "--name", "box", "localhost/busybox", "echo", "started")
    podman("init", "box")
    assert podman.inspect("box", "{{.State.Status}}") == "initialized"
    assert podman.says("start", "--attach", "box") == "started"


def test_a_container_that_does_not_hear_is_killed_when_stopped(podman: Podman) -> None:
    name = podman.start()
    podman("stop", "--time", "0", name)
    assert podman.inspect(name, "{{.State.ExitCode}}") == "137"


def test_logs_show_what_was_printed(podman: Podman) -> None:
    name = podman.start("sh", "-c", "echo out; echo err >&2; sleep 10000")
    wait_until(lambda: "err" in podman("logs", name).stderr, "the container wrote")
    logs = podman("logs", name)
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")


def test_a_signal_reaches_the_container(podman: Podman) -> None:
    name = podman.start("sh", "-c", f"echo ready; {PATIENT}")
    wait_until(lambda: "ready" in podman.says("logs", name), "the container is ready")
    podman("kill", "--signal", "USR1", name)
    wait_until(lambda: "got a signal" in podman.says("logs", name), "the signal came")
    podman("kill", "--signal", "TERM", name)
    assert podman.says("wait", name) == "5"


def test_exec_runs_a_further_process(podman: Podman) -> None:
    name = podman.start()
    assert podman.says("exec", name, "cat", "/proc/1/cmdline") == "sleep\x0010000\x00"
    assert podman("exec", name, "sh", "-c", "exit 9", check=False).returncode == 9
    assert podman.says(
        "exec", "--env", "A=b", "--workdir", "/tmp", name, "sh", "-c", "echo $A; pwd"
    )
    assert podman.says("exec", "--user", "12:34", name, "id", "-u") == "12"


def test_exec_of_a_program_that_is_not_there_says_so_by_its_status(podman: Podman) -> None:
    name = podman.start()
    assert podman("exec", name, "no-such-program", check=False).returncode == 127
    assert podman("exec", name, "/etc/passwd", check=False).returncode == 126


def test_exec_goes_on_in_the_background(podman: Podman) -> None:
    name = podman.start()
    podman("exec", "--detach", name, "sh", "-c", "echo done >/file")
    wait_until(lambda: podman("exec", name, "cat", "/file", check=False).stdout, "it ran")


def test_a_paused_container_stands_still(podman: Podman) -> None:
    name = podman.start("sh", "-c", "while :; do echo >>/count; sleep 0.01; done")
    podman("pause", name)
    assert podman.inspect(name, "{{.State.Status}}") == "paused"
    assert (
        "can only create exec sessions on running"
        in podman("exec", name, "true", check=False).stderr
    )
    podman("unpause", name)
    assert podman.inspect(name, "{{.State.Status}}") == "running"
    assert podman.says("exec", name, "echo", "on")


def test_top_and_stats_see_the_container(podman: Podman) -> None:
    name = podman.start("sh", "-c", "sleep 10000; true")
    assert "sleep 10000" in podman.says("top", name)
    stats = json.loads(podman.says("stats", "--no-stream", "--format", "json", name))[0]
    assert int(stats["pids"]) >= 1
    assert not stats["mem_usage"].startswith("0B")


def test_copies_go_in_and_out(podman: Podman) -> None:
    name = podman.start()
    file = podman.folder / "file"
    file.write_text("content")
    podman("cp", file, f"{name}:/tmp/copy")
    assert podman.says("exec", name, "cat", "/tmp/copy") == "content"
    file.unlink()
    podman("cp", f"{name}:/tmp/copy", file)
    assert file.read_text() == "content"


def test_a_health_check_is_run_inside(podman: Podman) -> None:
    name = podman.start(options=["--health-cmd", "test -f /well"])
    assert podman("healthcheck", "run", name, check=False).returncode == 1
    podman("exec", name, "touch", "/well")
    assert podman("healthcheck", "run", name).returncode == 0
    assert podman.inspect(name, "{{.State.Health.Status}}") == "healthy"


def test_a_hook_of_the_hooks_folder_gets_the_state(podman: Podman) -> None:
    script, seen = podman.folder / "hook.sh", podman.folder / "seen"
    script.write_text(f"#!/bin/sh\ncat >>{seen}; echo >>{seen}\n")
    script.chmod(0o755)
    stages = ["prestart", "createRuntime", "poststart", "poststop"]
    hook = podman.hooks / "hook.json"
    hook.write_text(
        json.dumps(
            {
                "version": "1.0.0",
                "hook": {"path": str(script)},
                "when": {"always": True},
                "stages": stages,
            }
        )
    )
    try:
        podman.shows("true")
    finally:
        hook.unlink()
    wait_until(lambda: len(seen.read_text().splitlines()) == len(stages), "all hooks ran")
    statuses = [json.loads(line)["status"] for line in seen.read_text().splitlines()]
    assert statuses == ["creating", "creating", "running", "stopped"]
    seen.unlink()


def test_a_time_limit_ends_the_container(podman: Podman) -> None:
    before = time.monotonic()
    assert podman.run("sleep", "10000", options=["--timeout", "1"]).returncode != 0
    assert time.monotonic() - before < 30


def test_containers_of_a_pod_share_its_namespaces(podman: Podman) -> None:
    podman("pod", "create", "--name", "pod", "--hostname", "together")
    podman.start(options=["--pod", "pod", "--name", "one"])
    podman.start(options=["--pod", "pod", "--name", "two"])
    spaces = [
        [podman.says("exec", name, "readlink", f"/proc/self/ns/{kind}") for kind in SHARED]
        for name in ("one", "two")
    ]
    assert spaces[0] == spaces[1]
    assert podman.says("exec", "two", "hostname") == "together"
    podman("pod", "pause", "pod")
    assert podman.says("pod", "inspect", "--format", "{{.State}}", "pod") == "Paused"
    podman("pod", "unpause", "pod")
    assert "sleep 10000" in podman.says("pod", "top", "pod")
    podman("pod", "stop", "--time", "0", "pod")
    assert podman.inspect("one", "{{.State.Status}}") == "exited"


def test_a_pod_that_shares_processes_has_the_containers_in_one_tree(podman: Podman) -> None:
    podman("pod", "create", "--name", "pod", "--share", "pid,net,ipc,uts")
    podman.start(options=["--pod", "pod", "--name", "one"])
    assert "catatonit" in podman.says("exec", "one", "cat", "/proc/1/cmdline")


def test_a_bridge_connects_two_containers(podman: Podman) -> None:
    podman("network", "create", "wire")
    podman.start(
        "sh",
        "-c",
        "while :; do echo hello | nc -l -p 80; done",
        options=["--network", "wire", "--name", "server"],
    )
    address = podman.inspect("server", "{{.NetworkSettings.Networks.wire.IPAddress}}")
    script = f"until nc -w 5 {address} 80 </dev/null; do sleep 0.05; done"
    assert podman.shows(script, "--network", "wire") == "hello"
