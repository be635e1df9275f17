"""create, start, run: the states a container passes through, and their commands' ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .driver import (
    Config,
    Runtime,
    cgroups_named,
    children,
    eventually,
    is_alive,
    killed_at_end,
    says_unknown,
    status_fields,
    wait_for_death,
)
from .sockets import DescriptorSocket


def test_a_created_container_waits_and_start_lets_it_run(runtime: Runtime) -> None:
    container = runtime.create(runtime.bundle("sh", "-c", "echo alive; sleep 10000"))
    assert container.status == "created"
    assert container.written() == ""
    pid = container.pid
    container("start")
    assert container.status == "running"
    assert container.pid == pid
    container.wait_for_output("alive\n")


def test_a_container_whose_process_ended_is_stopped_and_has_no_pid(runtime: Runtime) -> None:
    container = runtime.create(runtime.bundle("true"))
    container("start")
    container.wait_until("stopped")
    assert container.pid == 0
    container("delete")
    assert says_unknown(runtime.refuses("state", container.id))


def test_the_process_becomes_a_child_of_the_caller(runtime: Runtime) -> None:
    container = runtime.create()
    status = status_fields(Path(f"/proc/{container.pid}/status").read_text())
    assert int(status["PPid"]) == os.getpid()


def test_create_leaves_no_other_process_behind(runtime: Runtime) -> None:
    before = children()
    container = runtime.create()
    assert children() - before == {container.pid}


def test_the_exit_status_reaches_whoever_waits_for_the_process(runtime: Runtime) -> None:
    container = runtime.create(runtime.bundle("sh", "-c", "exit 41"))
    pid = container.pid
    container("start")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 41


def test_start_is_refused_for_a_running_container(runtime: Runtime) -> None:
    container = runtime.started()
    error = runtime.refuses("start", container.id)
    assert "cannot start" in error
    assert "running" in error
    assert container.status == "running"


def test_start_is_refused_for_a_stopped_container(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("true"))
    container.wait_until("stopped")
    assert "stopped" in runtime.refuses("start", container.id)


def test_start_is_refused_for_a_paused_container(runtime: Runtime) -> None:
    container = runtime.create()
    container("pause")
    assert "paused" in runtime.refuses("start", container.id)
    container("resume")
    container("start")


@pytest.mark.parametrize("verb", ["start", "state", "kill", "delete", "pause", "resume", "ps"])
def test_a_command_on_an_unknown_id_says_that_it_does_not_exist(
    runtime: Runtime, verb: str
) -> None:
    assert says_unknown(runtime.refuses(verb, "oci-nobody"))


def test_an_id_that_is_taken_is_refused_and_its_container_untouched(runtime: Runtime) -> None:
    container = runtime.started()
    before = container.state()
    other = runtime.bundle("true")
    for verb in (["create"], ["run"]):
        error = runtime.refuses(*verb, "--bundle", str(other.path), container.id)
        assert "exist" in error
    assert container.state() == before
    assert is_alive(before["pid"])


def test_an_id_can_be_used_again_after_delete(runtime: Runtime) -> None:
    container = runtime.started(runtime.bundle("true"))
    container.wait_until("stopped")
    container("delete")
    runtime.ok("run", "-d", "--bundle", str(container.bundle.path), container.id)
    container.wait_until("stopped")


def test_run_in_the_foreground_hands_out_the_output_and_the_exit_status(runtime: Runtime) -> None:
    result = runtime.run(runtime.bundle("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (result.status, result.out, result.err) == (7, "out\n", "err\n")
    assert runtime.ids() == []


def test_run_reports_a_signal_as_128_and_its_number(runtime: Runtime) -> None:
    # The first process of a pid namespace cannot kill itself; its host can.
    container = runtime.new_id()
    bundle = runtime.bundle("sh", "-c", "echo up; sleep 10000")
    output = bundle.path / "output"
    with (
        output.open("w") as stdout,
        killed_at_end(
            runtime.popen("run", "--bundle", str(bundle.path), container, stdout=stdout)
        ) as running,
    ):
        eventually(lambda: output.read_text() == "up\n", "the container runs")
        runtime.ok("kill", container, "KILL")
        assert running.wait(10) == 128 + signal.SIGKILL


def test_run_passes_standard_input_on(runtime: Runtime) -> None:
    words = runtime.workspace / "words"
    words.write_text("from the caller")
    with words.open() as stdin:
        assert runtime.run(runtime.bundle("cat"), stdin=stdin).out == "from the caller"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1"])
def test_run_forwards_signals_to_the_process(runtime: Runtime, name: str) -> None:
    script = f"trap 'echo got; exit 3' {name[3:]}; echo up; while :; do sleep 0.05; done"
    bundle = runtime.bundle("sh", "-c", script)
    output = bundle.path / "output"
    with (
        output.open("w") as stdout,
        killed_at_end(
            runtime.popen("run", "--bundle", str(bundle.path), runtime.new_id(), stdout=stdout)
        ) as running,
    ):
        eventually(lambda: output.read_text() == "up\n", "the container runs")
        running.send_signal(getattr(signal, name))
        assert running.wait(10) == 3
    assert output.read_text() == "up\ngot\n"


def test_run_keep_leaves_the_stopped_container(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    container = runtime.new_id()
    runtime.ok("run", "--keep", "--bundle", str(bundle.path), container)
    assert '"stopped"' in runtime.ok("state", container).out
    runtime.ok("delete", container)


def test_run_reaps_what_its_container_leaves_to_it(runtime: Runtime) -> None:
    def own_no_pid_namespace(config: Config) -> None:
        namespaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [n for n in namespaces if n["type"] != "pid"]

    bundle = runtime.bundle("sh", "-c", "(sleep 0.05 &); exit 5", change=own_no_pid_namespace)
    assert runtime.run(bundle).status == 5


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("nonesuch", "executable file not found in"),
        ("/bin/nonesuch", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ],
)
def test_a_program_that_cannot_run_is_named_and_nothing_is_left(
    runtime: Runtime, program: str, reason: str
) -> None:
    bundle = runtime.bundle(program)
    container = runtime.new_id()
    error = runtime.refuses("run", "--bundle", str(bundle.path), container)
    assert reason in error
    assert program in error
    assert runtime.ids() == []
    assert cgroups_named(container) == []


def test_a_relative_program_is_found_from_its_working_directory(runtime: Runtime) -> None:
    def in_bin(config: Config) -> None:
        config["process"]["cwd"] = "/bin"

    assert runtime.run(runtime.bundle("./echo", "hello", change=in_bin)).out == "hello\n"


def test_the_pid_file_holds_the_pid_and_nothing_else(runtime: Runtime) -> None:
    pid_file = runtime.workspace / "pid"
    container = runtime.create(None, "--pid-file", str(pid_file))
    assert pid_file.read_text() == str(container.pid)


def test_the_pidfd_socket_receives_a_pidfd_of_the_process(runtime: Runtime) -> None:
    with DescriptorSocket() as pidfds:
        container = runtime.create(None, "--pidfd-socket", pidfds.path)
        pidfd = pidfds.receive()
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert f"Pid:\t{container.pid}\n" in info
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        container.wait_until("stopped")


def test_the_bundle_is_the_working_directory_by_default(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    runtime.ok("run", runtime.new_id(), cwd=bundle.path)


def test_a_relative_bundle_and_a_relative_root_work(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    container = runtime.new_id()
    output = bundle.path / "output"
    runtime.ok("run", "-d", "--bundle", bundle.path.name, container, output=output)
    assert f'"{bundle.path}"' in runtime.ok("state", container).out


def test_the_container_ends_with_its_first_process_and_takes_the_others_along(
    runtime: Runtime,
) -> None:
    container = runtime.started(runtime.bundle("sh", "-c", "sleep 9999 & echo up; wait"))
    container.wait_for_output("up")
    pids = container.pids()
    assert len(pids) == 2
    container("kill", "KILL")
    for pid in pids:
        wait_for_death(pid)
    container.wait_until("stopped")


def test_standard_streams_closed_in_the_caller_do_not_confuse_create(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    container = runtime.new_id()
    runtime.ok(
        "run", "-d", "--bundle", str(bundle.path), container,
        output=bundle.path / "output", before="exec <&-",
    )  # fmt: skip
    assert '"running"' in runtime.ok("state", container).out
