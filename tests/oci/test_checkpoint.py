"""checkpoint and restore by the command line, as its documentation walks through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .driver import Config, Container, Runtime, children, eventually, status_fields
from .seccomp import profile, rule

# What a process keeps in its memory: a number that only ever grows by one.
# It writes inside its root file system: standard streams are another test's subject.
COUNTER = "exec > /tmp/out 2>&1; n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done"


@pytest.fixture
def images(runtime: Runtime) -> Path:
    return runtime.workspace / "images"


@pytest.fixture
def counter(runtime: Runtime) -> Container:
    bundle = runtime.bundle("sh", "-c", COUNTER)
    container = Container(runtime, runtime.new_id(), bundle, bundle.rootfs / "tmp/out")
    container.output.touch()
    runtime.ok(
        "run", "--detach", "--bundle", str(bundle.path), container.id, output=Path(os.devnull)
    )
    container.wait_for_output("3\n")
    return container


def paths(runtime: Runtime, images: Path) -> list[str]:
    return ["--image-path", str(images), "--work-path", str(runtime.workspace / "work")]


def checkpoint(container: Container, images: Path, *options: str) -> None:
    runtime = container.runtime
    result = runtime("checkpoint", *paths(runtime, images), *options, container.id)
    assert result.status == 0, f"{result}\n{causes(runtime)}"


def causes(runtime: Runtime) -> str:
    """What CRIU's logs call an error."""
    logs = (runtime.workspace / "work").glob("*.log")
    lines = (line for log in logs for line in log.read_text().splitlines())
    return "\n".join(line for line in lines if "Error" in line)


def restore(container: Container, images: Path, *options: str) -> None:
    runtime = container.runtime
    runtime.ok(
        "restore", "--detach", *paths(runtime, images), "--bundle", str(container.bundle.path),
        *options, container.id, output=Path(os.devnull),
    )  # fmt: skip


def numbers(container: Container) -> list[int]:
    return [int(line) for line in container.written().splitlines()]


def test_a_counter_goes_on_where_it_stopped(counter: Container, images: Path) -> None:
    pid = counter.pid
    checkpoint(counter, images)
    # runc removes the container; either way its processes have gone.
    os.waitpid(pid, 0)
    last = numbers(counter)[-1]
    counter.runtime("delete", counter.id)
    restore(counter, images)
    eventually(lambda: numbers(counter)[-1] > last + 3, "the counter goes on")
    assert counter.status == "running"
    seen = numbers(counter)
    assert seen == list(range(1, len(seen) + 1))
    assert counter.exec("echo", "inside") == "inside\n"
    counter("kill", "KILL")
    counter.wait_until("stopped")


def test_a_process_that_sleeps_goes_on_sleeping(runtime: Runtime, images: Path) -> None:
    bundle = runtime.bundle("sh", "-c", "exec sleep 10000 > /dev/null 2>&1")
    container = Container(runtime, runtime.new_id(), bundle, bundle.path / "output")
    nowhere = Path(os.devnull)
    runtime.ok("run", "--detach", "--bundle", str(bundle.path), container.id, output=nowhere)
    pid = container.pid
    checkpoint(container, images)
    os.waitpid(pid, 0)
    runtime("delete", container.id)
    restore(container, images)
    # Its sleep was interrupted by the freeze: it must not take that for its end.
    assert "sleep 10000" in container.exec("ps", "-o", "args")
    assert container.status == "running"


def test_leave_running_leaves_it_running(counter: Container, images: Path) -> None:
    pid = counter.pid
    checkpoint(counter, images, "--leave-running")
    last = numbers(counter)[-1]
    eventually(lambda: numbers(counter)[-1] > last + 3, "the counter goes on")
    assert counter.pid == pid
    assert (images / "inventory.img").exists()


def test_a_restored_container_can_be_checkpointed_again(counter: Container, images: Path) -> None:
    for number in range(2):
        pid = counter.pid
        checkpoint(counter, images.with_name(f"images{number}"))
        os.waitpid(pid, 0)
        counter.runtime("delete", counter.id)
        restore(counter, images.with_name(f"images{number}"))
    last = numbers(counter)[-1]
    eventually(lambda: numbers(counter)[-1] > last, "the counter goes on")
    seen = numbers(counter)
    assert seen == list(range(1, len(seen) + 1))


def test_the_restored_process_is_a_child_of_the_caller_and_in_the_pid_file(
    counter: Container, images: Path
) -> None:
    pid = counter.pid
    checkpoint(counter, images)
    os.waitpid(pid, 0)
    counter.runtime("delete", counter.id)
    pid_file = counter.bundle.path / "pid"
    before = children()
    restore(counter, images, "--pid-file", str(pid_file))
    assert int(pid_file.read_text()) == counter.pid
    assert children() - before == {counter.pid}


@pytest.mark.parametrize("privileged", [False, True])
def test_a_filter_of_system_calls_still_holds_after_a_restore(
    runtime: Runtime, images: Path, *, privileged: bool
) -> None:
    def change(config: Config) -> None:
        config["process"]["noNewPrivileges"] = not privileged
        config["linux"]["seccomp"] = profile("ALLOW", rule("ERRNO", "mkdir", "mkdirat"))

    script = "exec > /tmp/out 2>&1; while :; do mkdir /tmp/made && exit; sleep 0.01; done"
    bundle = runtime.bundle("sh", "-c", script, change=change)
    container = Container(runtime, runtime.new_id(), bundle, bundle.rootfs / "tmp/out")
    container.output.touch()
    nowhere = Path(os.devnull)
    runtime.ok("run", "--detach", "--bundle", str(bundle.path), container.id, output=nowhere)
    container.wait_for_output("not permitted")
    pid = container.pid
    checkpoint(container, images)
    os.waitpid(pid, 0)
    runtime("delete", container.id)
    restore(container, images)
    tries = container.written().count("not permitted")
    eventually(lambda: container.written().count("not permitted") > tries + 3, "it tries on")
    fields = status_fields(Path(f"/proc/{container.pid}/status").read_text())
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", str(int(not privileged)))
    assert runtime.refuses("exec", container.id, "mkdir", "/tmp/made").count("not permitted") == 1
    assert not (bundle.rootfs / "tmp/made").exists()


def test_a_checkpoint_of_what_does_not_run_is_refused(runtime: Runtime, images: Path) -> None:
    assert "does not exist" in runtime.refuses("checkpoint", *paths(runtime, images), "oci-nobody")
    container = runtime.started(runtime.bundle("true"))
    container.wait_until("stopped")
    runtime.refuses("checkpoint", *paths(runtime, images), container.id)


def test_a_restore_from_nothing_is_refused_and_leaves_nothing(
    runtime: Runtime, images: Path
) -> None:
    images.mkdir()
    bundle = runtime.bundle()
    runtime.refuses(
        "restore", "--detach", *paths(runtime, images), "--bundle", str(bundle.path),
        runtime.new_id(),
    )  # fmt: skip
    assert runtime.ids() == []


def test_a_restore_under_an_id_that_is_taken_is_refused(counter: Container, images: Path) -> None:
    checkpoint(counter, images, "--leave-running")
    runtime = counter.runtime
    error = runtime.refuses(
        "restore", "--detach", *paths(runtime, images), "--bundle", str(counter.bundle.path),
        counter.id,
    )  # fmt: skip
    assert "exist" in error
    assert counter.status == "running"
