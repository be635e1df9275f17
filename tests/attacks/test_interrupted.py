"""Commands killed halfway: the next one cleans up, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from tests.oci.driver import Runtime, eventually

STEPS = 12
# A create takes about this long on an idle machine; kills are spread over it.
SPAN_SECONDS = 0.2


def killed_create(runtime: Runtime, bundle: str, name: str, after_seconds: float) -> int:
    """Start a create and kill it, and it alone, after a while; its exit status."""
    process = runtime.popen(
        "create", "--bundle", bundle, name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after_seconds)
    process.kill()
    return process.wait()


@pytest.mark.parametrize("verb", ["create", "delete"])
def test_a_create_killed_anywhere_is_cleaned_up_by_the_next_command(
    runtime: Runtime, verb: str
) -> None:
    bundle = runtime.bundle()
    for step in range(STEPS):
        name = runtime.new_id()
        killed_create(runtime, str(bundle.path), name, SPAN_SECONDS * step / STEPS)
        runtime.ok("list")
        if verb == "create":
            again = runtime(
                "create", "--bundle", str(bundle.path), name, output=bundle.path / "output"
            )
            # It may have been complete before it was killed: then it exists.
            assert again.status == 0 or "exist" in again.err, str(again)
            assert '"created"' in runtime.ok("state", name).out
            runtime.ok("start", name)
        runtime.ok("delete", "--force", name)
        assert "does not exist" in runtime.refuses("state", name)
    assert runtime.ids() == []


def test_a_delete_killed_anywhere_is_finished_by_the_next_one(runtime: Runtime) -> None:
    for step in range(6):
        container = runtime.started()
        process = runtime.popen(
            "delete", "--force", container.id,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.01 * step)
        process.kill()
        process.wait()
        runtime.ok("list")
        runtime.ok("delete", "--force", container.id)
        assert runtime.ids() == []


def test_a_start_killed_anywhere_leaves_a_container_that_answers(runtime: Runtime) -> None:
    for step in range(6):
        container = runtime.create()
        process = runtime.popen(
            "start", container.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.008 * step)
        process.kill()
        process.wait()
        assert container.status in {"created", "running"}
        again = runtime("start", container.id)
        assert again.status == 0 or "running" in again.err
        assert container.status == "running"


def test_a_lock_dies_with_its_holder(runtime: Runtime) -> None:
    container = runtime.started()
    process = runtime.popen(
        "delete", "--force", container.id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    process.kill()
    process.wait()
    began = time.monotonic()
    runtime.ok("delete", "--force", container.id)
    assert time.monotonic() - began < 5


def test_a_terminated_create_cleans_up_by_itself(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "61"]}]}
    bundle.write()
    name = runtime.new_id()
    process = runtime.popen(
        "create", "--bundle", str(bundle.path), name,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    eventually(lambda: "sleep\x0061" in commands(), "the hook runs")
    process.terminate()
    assert process.wait(10) != 0
    eventually(lambda: "sleep\x0061" not in commands(), "the hook ends")
    runtime("delete", "--force", name)
    assert runtime.ids() == []


def commands() -> str:
    """The command lines of every process of this session's descendants."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/cmdline") as file:
                    found.append(file.read())
            except OSError:
                continue
    return "\n".join(found)
