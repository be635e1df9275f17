"""System call filters: what would slip by one, or be left behind by one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.oci.driver import Config, Runtime
from tests.oci.seccomp import Agent, profile, rule

# Wherever a loader might look first.
LIBRARY = "libseccomp.so.2"
LIBRARY_FOLDERS = ("lib", "lib64", "usr/lib", "usr/lib64", "lib/x86_64-linux-gnu")
NEIGHBOUR = """
for process in /proc/[0-9]*; do
    [ "$(cat $process/comm)" = migrate-init ] || continue
    echo seen
    for name in environ maps mem; do
        head -c 1 $process/$name >/dev/null 2>&1 && echo READ $name
    done
    for name in exe cwd root fd/0 fd/3; do
        readlink $process/$name >/dev/null && echo FOLLOWED $name
    done
done
"""


def with_filter(seccomp: Any, *, privileged: bool = True) -> Any:
    def change(config: Config) -> None:
        config["linux"]["seccomp"] = seccomp
        config["process"]["noNewPrivileges"] = not privileged

    return change


def test_a_library_of_the_image_or_of_the_bundle_has_no_say_in_the_filter(
    runtime: Runtime, built: Path
) -> None:
    # Its constructor would leave a file and end the process.
    wanted = profile("ALLOW", rule("ERRNO", "mkdir", "mkdirat"))
    bundle = runtime.bundle("sh", "-c", "mkdir /tmp/made; echo on", change=with_filter(wanted))
    for folder in LIBRARY_FOLDERS:
        (bundle.rootfs / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy2(built / "trap.so", bundle.rootfs / folder / LIBRARY)
    shutil.copy2(built / "trap.so", bundle.path / LIBRARY)
    container = runtime.started(bundle, cwd=bundle.path)
    container.wait_for_output("on\n")
    assert not (bundle.rootfs / "tmp/made").exists()
    assert runtime.ok("features", cwd=bundle.path).out


def test_a_process_that_waits_to_load_its_filter_is_closed_to_its_neighbours(
    runtime: Runtime,
) -> None:
    # Without no_new_privs it has CAP_SYS_ADMIN until then, for loading the filter.
    neighbour = runtime.started()

    def join(config: Config) -> None:
        with_filter(profile("ALLOW", rule("ERRNO", "mkdir")))(config)
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "pid":
                namespace["path"] = f"/proc/{neighbour.pid}/ns/pid"

    waiting = runtime.create(runtime.bundle("sleep", "100", change=join))
    assert waiting.status == "created"
    assert neighbour.exec("sh", "-c", NEIGHBOUR).split() == ["seen"]


@pytest.mark.parametrize("action", ["KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE"])
def test_a_filter_that_lets_nothing_through_leaves_nothing_behind(
    runtime: Runtime, action: str
) -> None:
    for privileged in (False, True):
        change = with_filter(profile(action), privileged=privileged)
        bundle = runtime.bundle("true", change=change)
        created = runtime.create(bundle)
        assert created.status == "created"
        result = runtime("start", created.id)
        assert "Traceback" not in result.err
        created.wait_until("stopped")
        runtime.ok("delete", created.id)
    assert runtime.ids() == []


@pytest.mark.parametrize("silent", [True, False])
def test_a_container_whose_agent_never_answers_can_be_taken_away(
    runtime: Runtime, *, silent: bool
) -> None:
    with Agent() as agent:
        wanted = profile("ALLOW", rule("NOTIFY", "mkdir"), listenerPath=agent.path)
        script = "mkdir /tmp/made; echo went on"
        container = runtime.started(runtime.bundle("sh", "-c", script, change=with_filter(wanted)))
        agent.receive()
        if silent:
            assert container.status == "running"
            assert "went on" not in container.written()
            container("kill", "KILL")
            container.wait_until("stopped")
    if not silent:
        # With the listener closed, the kernel answers ENOSYS in its place.
        container.wait_for_output("went on")
    runtime.ok("delete", "--force", container.id)


def test_a_listener_is_no_descriptor_of_the_payload(runtime: Runtime) -> None:
    # Whoever holds it could answer for itself.
    with Agent() as agent:
        wanted = profile("ALLOW", rule("NOTIFY", "chroot"), listenerPath=agent.path)
        bundle = runtime.bundle(
            "sh", "-c", "ls /proc/self/fd; sleep 100", change=with_filter(wanted)
        )
        container = runtime.started(bundle)
        agent.receive()
        container.wait_for_output("2\n")
        fds = [
            Path(f"/proc/{container.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{container.pid}/fd")
        ]
        assert not [fd for fd in fds if "seccomp" in str(fd.readlink())]
        said = container.exec("sh", "-c", "ls -l /proc/self/fd /proc/1/fd")
        agent.receive()
        assert "seccomp" not in said
