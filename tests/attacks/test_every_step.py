"""A command killed right before each call by which it changes the host, one after the other.

`test_interrupted` kills at times spread over a command's life; here no step is left out.
The calls are those of Python's modules that make, write, move, start, send or remove:
a profile function of the interpreter counts them, and ends its own process at the number
it was given.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.attacks.conftest import COMMAND
from tests.oci.driver import CGROUP_ROOT, Bundle, Runtime, mounts_below

STEPPING = r"""
import os, sys

STEPS = {
    "bind", "chown", "fchown", "flock", "fork", "fsync", "ftruncate", "kill", "link", "listen",
    "mkdir", "open", "pidfd_open", "pidfd_send_signal", "posix_spawn", "recvmsg", "rename",
    "rmdir", "send", "sendall", "sendmsg", "symlink", "unlink", "waitpid", "write",
}
command, stop, counted, *arguments = sys.argv[1:]
count = 0
own = os.getpid()
# Told at each step: the command may leave by os._exit.
told = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

def watch(frame, event, called):
    global count
    if event != "c_call" or called.__name__ not in STEPS or os.getpid() != own:
        return
    count += 1
    os.pwrite(told, str(count).encode(), 0)
    if count == int(stop):
        os.kill(own, 9)

sys.argv = [command, *arguments]
code = compile(open(command).read(), command, "exec")
sys.setprofile(watch)
exec(code, {"__name__": "__main__"})
"""
PARTS = 4


class Stepper:
    """Commands that are killed at a step."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.program = runtime.workspace / "stepping.py"
        self.program.write_text(STEPPING)
        self.counted = runtime.workspace / "counted"

    def __call__(self, step: int, *arguments: str) -> int:
        """Run a command and return its exit status; -9 where it came to the step."""
        head = ["/usr/bin/python3", "-IS", str(self.program), COMMAND, str(step)]
        line = [*head, str(self.counted), *self.runtime.argv(*arguments)[1:]]
        return subprocess.run(
            line,
            env=self.runtime.environment,
            cwd=self.runtime.workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        ).returncode

    def steps(self, part: int) -> range:
        """Return one part of the steps that the last command took."""
        return range(1 + part, int(self.counted.read_text()) + 1, PARTS)


def groups_of(name: str) -> list[Path]:
    """The control groups called by an id, in every tree."""
    return [Path(at) for at, names, _ in os.walk(CGROUP_ROOT) if name in names]


def assert_nothing_is_left(runtime: Runtime, name: str) -> None:
    assert runtime.ids() == []
    assert groups_of(name) == []
    assert mounts_below(runtime.workspace) == []


@pytest.fixture
def stepper(runtime: Runtime) -> Stepper:
    return Stepper(runtime)


@pytest.fixture
def bundle(runtime: Runtime) -> Bundle:
    return runtime.bundle()


@pytest.mark.parametrize("part", range(PARTS))
def test_a_create_killed_at_any_step_is_deleted_or_made_again(
    runtime: Runtime, stepper: Stepper, bundle: Bundle, part: int
) -> None:
    words = ("create", "--bundle", str(bundle.path))
    name = runtime.new_id()
    assert stepper(0, *words, name) == 0
    runtime.ok("delete", "--force", name)
    steps = stepper.steps(part)
    assert len(steps) > 10
    for step in steps:
        stepper(step, *words, name)
        runtime.ok("list")
        if step % 2:
            again = runtime("create", *words[1:], name, output=bundle.path / "output")
            # Killed after its last save it exists, and its process waits or has ended.
            assert again.status == 0 or "exist" in again.err, f"step {step}: {again}"
            begun = runtime("start", name)
            assert begun.status == 0 or (again.status and "has stopped" in begun.err), str(begun)
        runtime.ok("delete", "--force", name)
        assert_nothing_is_left(runtime, name)


@pytest.mark.parametrize("verb", ["start", "pause", "update", "kill", "delete"])
def test_a_command_killed_at_any_step_leaves_a_container_that_can_be_deleted(
    runtime: Runtime, stepper: Stepper, bundle: Bundle, verb: str
) -> None:
    words = {"update": ("update", "--pids-limit", "50"), "delete": ("delete", "--force")}
    step = 1
    while True:
        container = runtime.create(bundle) if verb == "start" else runtime.started(bundle)
        status = stepper(step, *words.get(verb, (verb,)), container.id)
        runtime.ok("list")
        runtime.ok("delete", "--force", container.id)
        assert_nothing_is_left(runtime, container.id)
        if status != -9:
            break
        step += 1
    assert step > 1


def test_the_steps_are_counted(stepper: Stepper) -> None:
    assert stepper(0, "list") == 0
    assert stepper(1, "create", "nobody") == -9
