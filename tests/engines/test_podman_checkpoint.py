"""Containers that podman checkpoints, exports and restores."""

from __future__ import annotations

import json

from tests.support.hosts import wait_until

from .podman import Podman

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.01; done"


def count(podman: Podman, name: str) -> int:
    """How far the counter is."""
    text = ""

    def read() -> bool:
        nonlocal text
        text = podman.says("exec", name, "cat", "/count")  # empty while it is written
        return bool(text)

    wait_until(read, "the counter counts")
    return int(text)


def counting(podman: Podman, *options: str) -> str:
    """Start a counter that has counted."""
    name = podman.start("sh", "-c", COUNTER, options=options)
    wait_until(
        lambda: podman("exec", name, "test", "-s", "/count", check=False).returncode == 0, ""
    )
    return name


def test_a_container_is_checkpointed_and_restored_in_place(podman: Podman) -> None:
    name = counting(podman)
    podman("container", "checkpoint", name)
    assert podman.inspect(name, "{{.State.Status}} {{.State.Checkpointed}}") == "exited true"
    podman("container", "restore", name)
    first = count(podman, name)
    wait_until(lambda: count(podman, name) > first, "it counts on")


def test_an_export_becomes_another_container(podman: Podman) -> None:
    name = counting(podman)
    archive = podman.folder / "export.tar"
    podman("container", "checkpoint", "--export", archive, name)
    podman("rm", name)
    for other in ("one", "two"):
        podman("container", "restore", "--import", archive, "--name", other)
        first = count(podman, other)
        wait_until(lambda other=other, first=first: count(podman, other) > first, "it counts on")
    archive.unlink()


def test_a_container_that_is_left_running_runs_on(podman: Podman) -> None:
    # podman copies the files while the container runs on: it must not be writing one.
    name = podman.start("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")

    def printed(name: str) -> int:
        return int((podman.says("logs", "--tail", "1", name) or "0").splitlines()[-1])

    saved = wait_until(lambda: printed(name), "the counter counts")
    archive = podman.folder / "export.tar"
    podman("container", "checkpoint", "--leave-running", "--export", archive, name)
    first = printed(name)
    wait_until(lambda: printed(name) > first, "it counts on")
    podman("container", "restore", "--import", archive, "--name", "copy")
    wait_until(lambda: printed("copy") > saved, "the copy counts on")
    archive.unlink()


def test_files_changed_in_the_root_file_system_are_in_the_export(podman: Podman) -> None:
    name = counting(podman)
    podman("exec", name, "sh", "-c", "echo written >/new && rm /etc/group")
    archive = podman.folder / "export.tar"
    podman("container", "checkpoint", "--export", archive, "--compress", "none", name)
    podman("rm", name)
    podman("container", "restore", "--import", archive, "--name", "copy")
    assert podman.says("exec", "copy", "cat", "/new") == "written"
    assert podman("exec", "copy", "test", "-e", "/etc/group", check=False).returncode == 1
    archive.unlink()


def test_the_network_comes_back(podman: Podman) -> None:
    name = counting(podman, "--network", "bridge")
    show = ("exec", name, "ip", "-4", "-o", "address", "show", "eth0")
    before = podman.says(*show).split()[3]
    podman("container", "checkpoint", "--tcp-established", name)
    podman("container", "restore", "--tcp-established", name)
    assert podman.says(*show).split()[3] == before


def test_statistics_are_read_from_the_images(podman: Podman) -> None:
    name = counting(podman)
    said = json.loads(podman.says("container", "checkpoint", "--print-stats", name))
    assert said["container_statistics"][0]["criu_statistics"]["pages_written"] > 0
    said = json.loads(podman.says("container", "restore", "--print-stats", name))
    assert said["container_statistics"][0]["criu_statistics"]["pages_restored"] > 0


def test_a_container_with_a_terminal_is_restored_onto_one(podman: Podman) -> None:
    name = podman.start("sh", "-c", COUNTER, options=["--tty"])
    count(podman, name)
    podman("container", "checkpoint", name)
    podman("container", "restore", name)
    assert podman.says("exec", name, "readlink", "/proc/1/fd/0") == "/dev/pts/0"
    first = count(podman, name)
    wait_until(lambda: count(podman, name) > first, "it counts on")


def test_a_limit_is_there_again_after_a_restore(podman: Podman) -> None:
    name = counting(podman, "--memory", "32m", "--pids-limit", "30")
    podman("container", "checkpoint", name)
    podman("container", "restore", name)
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max"
    assert podman.says("exec", name, "sh", "-c", script).split() == ["33554432", "30"]


def test_a_restored_container_is_stopped_paused_and_removed_as_any(podman: Podman) -> None:
    name = podman.start("sh", "-c", f"trap 'exit 5' TERM; {COUNTER}")
    count(podman, name)
    podman("container", "checkpoint", name)
    podman("container", "restore", name)
    podman("pause", name)
    podman("unpause", name)
    assert "sleep" in podman.says("top", name)
    podman("stop", name)
    assert podman.inspect(name, "{{.State.ExitCode}}") == "5"
