"""The host's interpreter as seen from a container (CVE-2019-5736, CVE-2021-20269).

Every attempt opens it for writing without writing a byte: that the open fails is
what is proved, and a runtime that is broken breaks no machine.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.oci.driver import Config, Runtime

INTERPRETER = Path(os.path.realpath("/usr/bin/python3"))
LOADERS = ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-x86-64.so.2")
ATTEMPT = """#!/bin/sh
echo reached $(readlink /proc/self/fd/9)
for flags in '>>' '1<>'; do
    eval "true $flags /proc/self/fd/9" 2>/dev/null && echo WRITABLE by "$flags"
done
chmod 777 /proc/self/fd/9 2>/dev/null
echo tried
"""
# Every program that appears in this pid namespace is tried as long as it is there.
WATCH = """
echo up
while :; do
    for process in /proc/[0-9]*; do
        name=$(readlink $process/exe) || continue
        case $name in */busybox|'') continue;; esac
        echo seen $name
        for flags in '>>' '1<>'; do
            eval "true $flags $process/exe" 2>/dev/null && echo WRITABLE $name by "$flags"
        done
        (exec 9<$process/exe && while [ -e $process ]; do sleep 0.01; done
         true >> /proc/self/fd/9 && echo WRITABLE $name when it had gone) 2>/dev/null
    done
done
"""


def digest() -> str:
    return hashlib.sha256(INTERPRETER.read_bytes()).hexdigest()


def all_capabilities(config: Config) -> None:
    names = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_FOWNER"]
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += names


def plant_loader(rootfs: Path, loader: Path) -> None:
    """Let any dynamic program that is started in `rootfs` run the attacker instead."""
    for name in LOADERS:
        path = rootfs / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(loader.read_bytes())
        path.chmod(0o755)
    (rootfs / "attack.sh").write_text(ATTEMPT)


@pytest.mark.parametrize("program", ["/proc/self/exe", "/link"])
def test_an_entry_point_of_proc_self_exe_cannot_write_the_interpreter(
    runtime: Runtime, built: Path, program: str
) -> None:
    before, mode = digest(), INTERPRETER.stat().st_mode
    bundle = runtime.bundle(program, change=all_capabilities)
    (bundle.rootfs / "link").symlink_to("/proc/self/exe")
    plant_loader(bundle.rootfs, built / "loader")
    result = runtime.run(bundle)
    assert "WRITABLE" not in result.out
    assert (digest(), INTERPRETER.stat().st_mode) == (before, mode)
    # What was reached is not the payload of a shell: the loader ran, and found it shut.
    assert "reached" in result.out, str(result)
    assert "tried" in result.out


def test_exec_of_proc_self_exe_cannot_write_the_interpreter(runtime: Runtime, built: Path) -> None:
    before, mode = digest(), INTERPRETER.stat().st_mode
    bundle = runtime.bundle(change=all_capabilities)
    plant_loader(bundle.rootfs, built / "loader")
    container = runtime.started(bundle)
    result = runtime("exec", container.id, "/proc/self/exe")
    assert "WRITABLE" not in result.out
    assert (digest(), INTERPRETER.stat().st_mode) == (before, mode)


def test_what_a_shared_pid_namespace_shows_cannot_be_written(runtime: Runtime) -> None:
    before = digest()
    container = runtime.started(runtime.bundle("sh", "-c", WATCH, change=all_capabilities))
    container.wait_for_output("up")
    for _ in range(12):
        container.exec("true")
    assert "WRITABLE" not in container.written()
    assert digest() == before


def test_a_second_container_in_the_pid_namespace_of_the_first_cannot_be_written(
    runtime: Runtime,
) -> None:
    before = digest()
    first = runtime.started(runtime.bundle("sh", "-c", WATCH, change=all_capabilities))
    first.wait_for_output("up")

    def join(config: Config) -> None:
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "pid":
                namespace["path"] = f"/proc/{first.pid}/ns/pid"

    for _ in range(4):
        second = runtime.create(runtime.bundle("true", change=join))
        second("start")
        second.wait_until("stopped")
    assert "WRITABLE" not in first.written()
    assert digest() == before


def test_what_the_waiting_stage_ran_from_is_shut_even_when_it_has_gone(runtime: Runtime) -> None:
    """As long as a file is executed it is busy; the seal has to hold afterwards."""
    container = runtime.create()
    held = os.open(f"/proc/{container.pid}/exe", os.O_RDONLY)
    try:
        container("delete --force")
        refusals = "Read-only|not permitted"
        if os.fstatvfs(held).f_flag & os.ST_RDONLY:
            # The kernel looks first whether another process executes the same file, as the
            # hosts of other tests do.
            refusals += "|busy"
        with pytest.raises(OSError, match=refusals):
            os.open(f"/proc/self/fd/{held}", os.O_RDWR)
    finally:
        os.close(held)
