"""Descriptors of the host that reach the container (CVE-2024-21626, CVE-2016-9962)."""

from __future__ import annotations

import os
import stat

import pytest

from tests.oci.driver import Config, Runtime, mounts_below, status_fields

LEAKS = "exec 5</ 6</root 99</etc"
NUMBERS = [*range(3, 21), 99]


def test_no_descriptor_of_the_caller_reaches_the_process(runtime: Runtime) -> None:
    result = runtime.run(runtime.bundle("ls", "/proc/self/fd"), before=LEAKS)
    # The fourth is the directory that ls reads.
    assert result.out.split() == ["0", "1", "2", "3"], str(result)


def test_no_descriptor_of_the_caller_reaches_a_process_of_exec(runtime: Runtime) -> None:
    container = runtime.started()
    result = runtime.ok("exec", container.id, "ls", "/proc/self/fd", before=LEAKS)
    assert result.out.split() == ["0", "1", "2", "3"]


def test_no_descriptor_of_the_caller_reaches_a_hook(runtime: Runtime) -> None:
    log = runtime.workspace / "log"

    def change(config: Config) -> None:
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"ls /proc/self/fd > {log}"]}
        config["hooks"] = {"createRuntime": [hook]}

    runtime.run(runtime.bundle("true", change=change), before=LEAKS)
    assert not {"5", "6", "99"} & set(log.read_text().split())


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_working_directory_by_descriptor_does_not_lead_out(runtime: Runtime, verb: str) -> None:
    canary = runtime.workspace / "canary"
    canary.write_text("of the host")
    script = f"cat ../../../../../../../../..{canary}; cat {canary.name}"
    container = runtime.started() if verb == "exec" else None
    leaks = f"exec 5</ 6<{runtime.workspace} 7</root 99</"
    bundle = runtime.bundle("sh", "-c", script)
    for number in NUMBERS:
        for path in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../"):
            if number not in (5, 6) and path.endswith("/"):
                continue
            if container:
                result = runtime(
                    "exec", "--cwd", path, container.id, "sh", "-c", script, before=leaks
                )
            else:
                bundle.config["process"]["cwd"] = path
                bundle.write()
                result = runtime.run(bundle, before=leaks)
            assert "of the host" not in result.out, path
            assert mounts_below(runtime.workspace) == []


def test_the_waiting_first_process_holds_no_directory_of_the_host(runtime: Runtime) -> None:
    container = runtime.create(None, before=LEAKS)
    for entry in os.scandir(f"/proc/{container.pid}/fd"):
        mode = os.stat(entry.path).st_mode
        assert not stat.S_ISDIR(mode), os.readlink(entry.path)
        assert not stat.S_ISBLK(mode), os.readlink(entry.path)


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_waiting_first_process_is_closed_to_its_own_user(runtime: Runtime, uid: int) -> None:
    """What it has in memory and open is the host's until it becomes the container's."""

    def as_user(config: Config) -> None:
        config["process"]["user"] = {"uid": uid, "gid": uid}

    container = runtime.create(runtime.bundle(change=as_user))
    for name in ("exe", "fd/0", "cwd", "root", "ns/net"):
        command = ["exec", "--user", f"{uid}:{uid}", container.id, "readlink", f"/proc/1/{name}"]
        result = runtime(*command)
        assert result.status != 0, str(result)
        assert result.out == ""


def test_the_signals_of_the_interpreter_do_not_reach_the_process(runtime: Runtime) -> None:
    # Python ignores SIGPIPE and SIGXFSZ; the caller here ignores and blocks more.
    before = "trap '' HUP PIPE USR1 TERM"
    fields = status_fields(
        runtime.run(runtime.bundle("cat", "/proc/self/status"), before=before).out
    )
    for name in ("SigIgn", "SigBlk", "SigCgt"):
        assert int(fields[name], 16) == 0, name
    container = runtime.started()
    shown = runtime.ok("exec", container.id, "cat", "/proc/self/status", before=before).out
    for name in ("SigIgn", "SigBlk", "SigCgt"):
        assert int(status_fields(shown)[name], 16) == 0, name
