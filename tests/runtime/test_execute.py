"""One more process in a container: the same walls, and nothing of the caller's."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import CgroupError
from migrate.runtime import cgroup
from migrate.runtime.execute import group_of_first
from tests.runtime.conftest import Config, Failed, Runner, eventually
from tests.runtime.test_console import Taker, taker  # noqa: F401 - a fixture

pytestmark = pytest.mark.root


def process(*args: str, **changes: Any) -> dict[str, Any]:
    """A process as `exec --process` has it."""
    return {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], **changes}


@pytest.fixture
def running(runner: Runner) -> Any:
    """A running container with every namespace but a user namespace."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] += [{"type": "cgroup"}, {"type": "time"}]

    runner.bundle(change=change)
    record = runner.create()
    runner.start(record, wait=False)
    runner.output.write_bytes(b"")
    return record


def test_it_runs_in_the_containers_namespaces_and_cgroups(runner: Runner, running: Any) -> None:
    script = """
        cat /proc/self/cgroup | cut -d: -f3 | sort -u; hostname
        cd /proc/self/ns; for i in *; do readlink $i; done
    """
    (runner.rootfs / "bin" / "cut").symlink_to("busybox")
    (runner.rootfs / "bin" / "sort").symlink_to("busybox")
    assert runner.call("exec", name=running["id"], process=process("sh", "-c", script)) == 0
    lines = runner.text().splitlines()
    assert lines[:2] == ["/", "runc"]
    theirs = [os.readlink(f"/proc/{running['pid']}/ns/{entry}") for entry in _NAMESPACES]
    assert {line for line in lines[2:] if "children" not in line} <= set(theirs)


_NAMESPACES = sorted(os.listdir("/proc/self/ns"))


def test_its_status_is_the_callers_to_wait_for(runner: Runner, running: Any) -> None:
    asked = process("sh", "-c", "exit 42")
    assert runner.call("exec", name=running["id"], process=asked) == 42


def test_capabilities_user_and_signals_are_its_own(runner: Runner, running: Any) -> None:
    asked = process(
        "grep",
        "^Cap\\|^Sig[BIC]\\|^NoNew\\|^Groups\\|^Uid",
        "/proc/self/status",
        user={"uid": 5, "gid": 6, "additionalGids": [7]},
        capabilities={"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        noNewPrivileges=True,
    )
    assert runner.call("exec", name=running["id"], process=asked) == 0
    status = dict(line.split(":", 1) for line in runner.text().splitlines())
    assert {
        name: int(value, 16) for name, value in status.items() if name[:3] in ("Cap", "Sig")
    } == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapBnd": 1 << 5,
        "CapAmb": 0,
        "SigBlk": 0,
        "SigIgn": 0,
        "SigCgt": 0,
    }
    assert (status["Uid"].split(), status["Groups"].split()) == (["5"] * 4, ["7"])
    assert status["NoNewPrivs"].strip() == "1"


def test_nothing_of_the_caller_is_open_in_it(runner: Runner, running: Any) -> None:
    assert (
        runner.call("exec", name=running["id"], process=process("ls", "-l", "/proc/self/fd")) == 0
    )
    assert runner.text().count("->") == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nosuch"], 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], "no such file or directory"),
        (["/etc"], "is a directory"),
        (["junk"], "exec format error"),
    ],
)
def test_what_cannot_be_executed_is_said_and_leaves_no_pid_file(
    runner: Runner, running: Any, tmp_path: Path, args: list[str], message: str
) -> None:
    pid_file = tmp_path / "pid"
    (runner.rootfs / "bin" / "junk").write_bytes(b"\x7fELF junk")
    (runner.rootfs / "bin" / "junk").chmod(0o755)
    with pytest.raises(Failed) as caught:
        runner.call("exec", name=running["id"], process=process(*args), pid_file=str(pid_file))
    assert message in caught.value.reply["error"]
    assert not pid_file.exists()


def test_a_stopped_container_takes_no_process(runner: Runner, running: Any) -> None:
    os.kill(running["pid"], signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{running['pid']}/ns/pid"))
    with pytest.raises(Failed, match="cannot exec in a stopped container"):
        runner.call("exec", name=running["id"], process=process("true"))


def test_it_gets_a_terminal_of_the_containers(
    runner: Runner,
    running: Any,
    taker: Taker,  # noqa: F811 - the fixture
) -> None:
    asked = process("sh", "-c", "tty; echo done", terminal=True)
    status = runner.call("exec", name=running["id"], process=asked, console_socket=taker.path)
    assert status == 0
    assert taker.read_until(b"done\r\n").split() == ["/dev/pts/0", "done"]


def test_it_works_in_a_user_namespace(runner: Runner) -> None:
    from tests.runtime.test_namespaces import with_user_namespace

    for path in [runner.folder, *runner.folder.parents][:3]:
        path.chmod(0o755)
    runner.bundle(change=with_user_namespace)
    record = runner.create()
    runner.start(record, wait=False)
    runner.output.write_bytes(b"")
    asked = process("sh", "-c", "id -u; cat /proc/self/uid_map")
    assert runner.call("exec", name=record["id"], process=asked) == 0
    assert runner.text().split() == ["0", "0", "100000", "65536"]


def test_a_container_at_its_limit_of_tasks_takes_one_more(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 1}

    runner.bundle(change=change)
    record = runner.create()
    runner.start(record, wait=False)
    runner.output.write_bytes(b"")
    assert runner.call("exec", name=record["id"], process=process("id", "-u")) == 0
    assert runner.text() == "0\n"


def test_several_at_once_do_not_meet(runner: Runner, running: Any) -> None:
    asked = process("sh", "-c", "exit 5")
    calls = [runner.popen("exec", name=running["id"], process=asked) for _ in range(6)]
    for call, reply in calls:
        assert call.wait(60) == 0
        assert '"value": 5' in reply.read_text()


def test_the_group_of_the_first_process_is_read_whole_and_is_the_containers(
    runner: Runner,
) -> None:
    """On v2, a container may make groups, and call one of them `a:`."""
    record = runner.create()
    top = f"{cgroup.hierarchies()[''].mount_point}/{record['id']}-v2"
    os.makedirs(f"{top}/a:")
    try:
        cgroup.add({"": f"{top}/a:"}, record["pid"])
        record["cgroup"] = {"": top}
        assert group_of_first(record) == f"{top}/a:"
        record["cgroup"] = {"": f"{top}/b"}
        with pytest.raises(CgroupError, match="is outside of its control group"):
            group_of_first(record)
    finally:
        cgroup.kill({"": top})
        cgroup.destroy({"": top})
