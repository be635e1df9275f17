"""exec: a second process in a running container."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from .driver import (
    Config,
    Container,
    Runtime,
    eventually,
    is_oracle,
    killed_at_end,
    says_unknown,
    status_fields,
    stray_signals,
)
from .sockets import DescriptorSocket


@pytest.fixture
def container(runtime: Runtime) -> Container:
    return runtime.started()


def process_file(container: Container, **values: Any) -> str:
    """A process.json that differs from the container's own process by `values`."""
    process: dict[str, Any] = {**container.bundle.config["process"], **values}
    path = container.bundle.path / "process.json"
    path.write_text(json.dumps(process))
    return str(path)


def execute(container: Container, *arguments: str) -> str:
    """What `exec` with options of its own wrote."""
    return container.runtime.ok("exec", *arguments).out


def test_exec_runs_inside(container: Container) -> None:
    assert "bin\n" in container.exec("ls")
    assert container.exec("hostname") == container.bundle.config["hostname"] + "\n"
    assert container.exec("pidof", "sleep") == "1\n"


def test_exec_stops_reading_options_at_the_id(container: Container) -> None:
    assert container.exec("echo", "-t", "--user", "1000") == "-t --user 1000\n"


@pytest.mark.parametrize("status", [0, 1, 7, 127, 255])
def test_exec_ends_with_the_status_of_its_process(container: Container, status: int) -> None:
    result = container.runtime("exec", container.id, "sh", "-c", f"exit {status}")
    assert (result.status, result.err) == (status, "")


def test_exec_reports_a_signal_as_128_and_its_number(container: Container) -> None:
    result = container.runtime("exec", container.id, "sh", "-c", "kill -KILL $$")
    assert result.status == 128 + signal.SIGKILL


def test_exec_keeps_the_streams_apart(container: Container) -> None:
    result = container.runtime("exec", container.id, "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


def test_exec_passes_standard_input_on(container: Container) -> None:
    words = container.bundle.path / "words"
    words.write_text("from outside")
    with words.open() as stdin:
        assert container("exec", "cat", stdin=stdin).out == "from outside"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("nonesuch", "executable file not found in"),
        ("/bin/nonesuch", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ],
)
def test_exec_of_a_program_that_cannot_run_says_why(
    container: Container, program: str, reason: str
) -> None:
    result = container.runtime("exec", container.id, program)
    assert result.status == (255 if is_oracle() else 1)
    assert reason in result.err
    assert program in result.err
    assert container.status == "running"


def test_exec_needs_a_command_or_a_process(container: Container) -> None:
    container.runtime.refuses("exec", container.id)


def test_exec_in_a_container_that_does_not_run_is_refused(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("true"))
    container.wait_until("stopped")
    assert "stopped" in runtime.refuses("exec", container.id, "ls")
    assert says_unknown(runtime.refuses("exec", "oci-nobody", "ls"))


def test_exec_in_a_paused_container_is_refused_unless_told_to_wait(container: Container) -> None:
    runtime = container.runtime
    container("pause")
    assert "paused" in runtime.refuses("exec", container.id, "ls")
    output = container.bundle.path / "late"
    with (
        output.open("w") as stdout,
        killed_at_end(
            runtime.popen("exec", "--ignore-paused", container.id, "echo", "late", stdout=stdout)
        ) as late,
    ):
        container("resume")
        assert late.wait(10) == 0
    assert output.read_text() == "late\n"


def test_exec_works_before_start(runtime: Runtime) -> None:
    container = runtime.create()
    assert "bin\n" in container.exec("ls", "/")
    assert container.status == "created"


def test_exec_takes_the_working_directory_and_environment_of_the_config(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["cwd"] = "/home/worker"
        config["process"]["env"] += ["COLOUR=blue"]

    container = runtime.started(runtime.bundle(change=change))
    assert container.exec("pwd") == "/home/worker\n"
    assert container.exec("sh", "-c", "echo $COLOUR") == "blue\n"


def test_exec_options_override_directory_and_environment(container: Container) -> None:
    out = execute(
        container, "--cwd", "/tmp", "--env", "A=1,2", "--env", "B=x=y", container.id, "sh", "-c",
        "pwd; echo $A $B",
    )  # fmt: skip
    assert out == "/tmp\n1,2 x=y\n"


@pytest.mark.parametrize(
    ("user", "expected"), [("1000", "1000:0"), ("1000:50", "1000:50"), ("0:7", "0:7")]
)
def test_exec_user_sets_uid_and_gid(container: Container, user: str, expected: str) -> None:
    out = execute(container, "--user", user, container.id, "sh", "-c", "echo $(id -u):$(id -g)")
    assert out == f"{expected}\n"


def test_exec_additional_gids_are_exactly_those_asked_for(container: Container) -> None:
    gids = [word for gid in (33, 44) for word in ("--additional-gids", str(gid))]
    out = execute(container, "--user", "1000:7", *gids, container.id, "cat", "/proc/self/status")
    assert sorted(status_fields(out)["Groups"].split()) == ["33", "44"]


def test_exec_finds_home_in_the_containers_passwd(container: Container) -> None:
    out = execute(container, "--user", "1000", container.id, "sh", "-c", "echo $HOME")
    assert out == "/home/worker\n"


def test_exec_pid_file_names_a_process_of_the_container(container: Container) -> None:
    pid_file = container.bundle.path / "pid"
    output = container.bundle.path / "exec-output"
    container.runtime.ok(
        "exec",
        "--detach",
        "--pid-file",
        str(pid_file),
        container.id,
        "sleep",
        "9997",
        output=output,
    )
    pid = int(pid_file.read_text())
    assert pid in container.pids()
    # The caller is the one that reaps it.
    assert status_fields(Path(f"/proc/{pid}/status").read_text())["PPid"] == str(os.getpid())


def test_exec_detached_status_reaches_the_caller(container: Container) -> None:
    pid_file = container.bundle.path / "pid"
    container.runtime.ok(
        "exec", "-d", "--pid-file", str(pid_file), container.id, "sh", "-c", "exit 9",
        output=container.bundle.path / "exec-output",
    )  # fmt: skip
    _, status = os.waitpid(int(pid_file.read_text()), 0)
    assert os.waitstatus_to_exitcode(status) == 9


def test_exec_sends_a_pidfd_of_its_process(container: Container) -> None:
    pid_file = container.bundle.path / "pid"
    with DescriptorSocket() as pidfds:
        container.runtime.ok(
            "exec", "-d", "--pidfd-socket", pidfds.path, "--pid-file", str(pid_file),
            container.id, "sleep", "99", output=container.bundle.path / "exec-output",
        )  # fmt: skip
        info = Path(f"/proc/self/fdinfo/{pidfds.receive()}").read_text()
    assert f"Pid:\t{pid_file.read_text()}\n" in info


def test_exec_reads_a_process_file(container: Container) -> None:
    path = process_file(
        container,
        args=["sh", "-c", "id -u; pwd; echo $X; id -G"],
        env=["PATH=/bin", "X=from-file"],
        cwd="/tmp",
        user={"uid": 1000, "gid": 1000, "additionalGids": [50]},
    )
    assert execute(container, "--process", path, container.id).split() == [
        "1000",
        "/tmp",
        "from-file",
        "1000",
        "50",
    ]


def test_exec_process_file_sets_rlimits_and_capabilities(container: Container) -> None:
    path = process_file(
        container,
        args=["sh", "-c", "ulimit -n; ulimit -Hc; cat /proc/self/status"],
        rlimits=[
            {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
        capabilities={"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"],
                      "permitted": ["CAP_CHOWN"]},
    )  # fmt: skip
    first, second, status = execute(container, "-p", path, container.id).split("\n", 2)
    assert (first, second) == ("77", "0")
    fields = status_fields(status)
    assert (fields["CapBnd"], fields["CapEff"], fields["CapInh"]) == (
        "0000000000000001",
        "0000000000000001",
        "0000000000000000",
    )


@pytest.mark.parametrize("text", ["", "{", '{"args": "ls"}', "[]", '{"cwd": "/"}'])
def test_exec_refuses_a_broken_process_file(container: Container, text: str) -> None:
    path = container.bundle.path / "process.json"
    path.write_text(text)
    container.runtime.refuses("exec", "--process", str(path), container.id)


def test_exec_has_the_capabilities_of_the_container(container: Container) -> None:
    ours = status_fields(container.exec("cat", "/proc/self/status"))
    first = status_fields(container.exec("cat", "/proc/1/status"))
    for name in ("CapBnd", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp"):
        assert ours[name] == first[name]


def test_exec_cap_adds_a_capability(container: Container) -> None:
    out = execute(container, "--cap", "CAP_SYS_ADMIN", container.id, "cat", "/proc/self/status")
    fields = status_fields(out)
    assert int(fields["CapEff"], 16) & (1 << 21)
    assert int(fields["CapBnd"], 16) & (1 << 21)
    assert int(fields["CapInh"], 16) == 0


def test_exec_no_new_privs_sets_the_bit(runtime: Runtime) -> None:
    def allow(config: Config) -> None:
        config["process"]["noNewPrivileges"] = False

    container = runtime.started(runtime.bundle(change=allow))
    show = (container.id, "cat", "/proc/self/status")
    assert status_fields(execute(container, *show))["NoNewPrivs"] == "0"
    assert status_fields(execute(container, "--no-new-privs", *show))["NoNewPrivs"] == "1"


def test_exec_is_in_every_namespace_and_cgroup_of_the_container(container: Container) -> None:
    ours = container.exec("sh", "-c", "readlink /proc/self/ns/*; cat /proc/self/cgroup")
    first = container.exec("sh", "-c", "readlink /proc/1/ns/*; cat /proc/1/cgroup")
    assert ours == first


def test_exec_has_clean_signals_and_descriptors(container: Container) -> None:
    fields = status_fields(container.exec("cat", "/proc/self/status"))
    assert stray_signals(fields) == {}
    # ls opens the directory itself as the fourth.
    assert container.exec("ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_exec_preserve_fds_hands_descriptors_in(container: Container) -> None:
    note = container.bundle.path / "note"
    note.write_text("passed in\n")
    result = container.runtime.ok(
        "exec", "--preserve-fds", "1", container.id, "sh", "-c", "cat <&3; ls /proc/self/fd",
        before=f"exec 3<{note} 4<{note}",
    )  # fmt: skip
    assert result.out.split() == ["passed", "in", "0", "1", "2", "3", "4"]


def test_exec_forwards_signals_and_ends_with_the_process(container: Container) -> None:
    output = container.bundle.path / "trap"
    script = "trap 'echo got; exit 4' TERM; echo up; while :; do sleep 0.05; done"
    with (
        output.open("w") as stdout,
        killed_at_end(
            container.runtime.popen("exec", container.id, "sh", "-c", script, stdout=stdout)
        ) as running,
    ):
        eventually(lambda: output.read_text() == "up\n", "the process runs")
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 4
    assert output.read_text() == "up\ngot\n"


def test_a_stray_exec_does_not_keep_the_container_alive(container: Container) -> None:
    pid_file = container.bundle.path / "pid"
    container.runtime.ok(
        "exec", "-d", "--pid-file", str(pid_file), container.id, "sleep", "9996",
        output=container.bundle.path / "exec-output",
    )  # fmt: skip
    container("kill", "KILL")
    _, status = os.waitpid(int(pid_file.read_text()), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    container.wait_until("stopped")


def test_exec_reports_the_config_directory_that_is_missing(container: Container) -> None:
    error = container.runtime.refuses("exec", "--cwd", "/no/such", container.id, "ls")
    assert "/no/such" in error
