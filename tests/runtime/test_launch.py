"""What a container is when it has been made, and what is left when it could not be."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from migrate.runtime import cgroup, state
from tests.runtime.conftest import Config, Failed, Runner, eventually, wait_for_end

pytestmark = pytest.mark.root


def test_a_container_is_created_started_and_ends(runner: Runner) -> None:
    runner.bundle("sh", "-c", "echo I am $$; exit 3")
    record = runner.create()
    assert record["phase"] == "created"
    assert state.status(runner.store.load(record["id"])) == "created"
    assert runner.text() == ""
    runner.start(record)
    assert runner.text() == "I am 1\n"
    assert runner.store.load(record["id"])["phase"] == "started"
    assert not (runner.root / record["id"] / "start.sock").exists()


def test_the_configuration_is_kept_byte_for_byte(runner: Runner) -> None:
    bundle = runner.bundle()
    text = (bundle / "config.json").read_text().replace("{", "{\n\t ", 1)
    (bundle / "config.json").write_text(text)
    record = runner.create()
    assert (runner.root / record["id"] / "config.json").read_text() == text


def test_the_record_says_what_the_standard_streams_are(runner: Runner) -> None:
    record = runner.create()
    assert record["stdio"][0] == "/dev/null"
    assert record["stdio"][1] == str(runner.output)


def test_no_variable_reaches_the_payload_but_its_own(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["env"] = ["PATH=/bin", "A=b=c", "HOME=/tmp"]

    assert sorted(runner.run("env", change=change).split()) == ["A=b=c", "HOME=/tmp", "PATH=/bin"]


def test_no_descriptor_of_the_caller_reaches_the_payload(runner: Runner) -> None:
    runner.bundle("ls", "-l", "/proc/self/fd")
    name = runner.name()
    leak = 'exec 3</ 5</ 6</ 9</; exec "$@"'
    bundle = str(runner.folder / "bundle")
    process, _ = runner.popen("create", name=name, bundle=bundle, prefix=["sh", "-c", leak, "sh"])
    assert process.wait(30) == 0
    runner.start(runner.store.load(name))
    # total, 0, 1, 2, and ls's own directory
    assert len([line for line in runner.text().splitlines() if "->" in line]) == 3


def test_signals_are_as_at_birth(runner: Runner) -> None:
    runner.bundle("grep", "^Sig[BIC]", "/proc/self/status")
    ignored = [signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM]
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        record = runner.create()
        runner.start(record)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        for number, action in zip(ignored, before, strict=True):
            signal.signal(number, action)
    values = [line.split()[1] for line in runner.text().splitlines()]
    assert values == ["0" * 16] * 3


def test_what_is_preserved_arrives_and_the_rest_does_not(runner: Runner, tmp_path: Path) -> None:
    runner.bundle("sh", "-c", "cat <&3; exec ls -l /proc/self/fd")
    (tmp_path / "hello").write_text("passed on\n")
    name = runner.name()
    process, _ = runner.popen(
        "create",
        name=name,
        bundle=str(runner.folder / "bundle"),
        preserve_fds=1,
        prefix=["sh", "-c", 'exec 3<"$0" 4</; exec "$@"', str(tmp_path / "hello")],
    )
    assert process.wait(30) == 0
    runner.start(runner.store.load(name))
    assert runner.text().startswith("passed on\n")
    # 0 to 2 and the preserved one
    assert runner.text().count("->") == 4


def test_a_descriptor_that_is_not_open_cannot_be_preserved(runner: Runner) -> None:
    with pytest.raises(Failed, match="cannot be preserved"):
        runner.create(preserve_fds=30)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nosuch"], 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 'exec: "/etc": is a directory'),
    ],
)
def test_a_program_that_cannot_be_executed_is_said_by_create(
    runner: Runner, args: list[str], message: str
) -> None:
    (runner.rootfs / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    runner.bundle(*args)
    with pytest.raises(Failed) as caught:
        runner.create()
    assert message in caught.value.reply["error"]
    assert_nothing_left(runner)


def test_a_program_of_no_known_format_is_said_by_start(runner: Runner) -> None:
    (runner.rootfs / "bin" / "junk").write_bytes(b"\x7fELF junk")
    (runner.rootfs / "bin" / "junk").chmod(0o755)
    runner.bundle("junk")
    record = runner.create()
    with pytest.raises(Failed, match="exec format error"):
        runner.start(record)
    eventually(lambda: state.status(runner.store.load(record["id"])) == "stopped")


def test_a_container_is_started_once(runner: Runner) -> None:
    runner.bundle("sleep", "100")
    record = runner.create()
    runner.start(record, wait=False)
    with pytest.raises(Failed, match="cannot start an already running container"):
        runner.start(record, wait=False)
    os.kill(record["pid"], signal.SIGKILL)
    eventually(lambda: state.status(runner.store.load(record["id"])) == "stopped")
    with pytest.raises(Failed, match="cannot start a container that has stopped"):
        runner.call("start", name=record["id"])


def test_a_container_killed_before_its_start_cannot_be_started(runner: Runner) -> None:
    record = runner.create()
    pidfd = os.pidfd_open(record["pid"])
    os.kill(record["pid"], signal.SIGKILL)
    wait_for_end(pidfd)
    os.close(pidfd)
    with pytest.raises(Failed, match="cannot start a container that has stopped"):
        runner.call("start", name=record["id"])


def test_a_container_whose_create_was_killed_cannot_be_started(runner: Runner) -> None:
    record = runner.create()
    os.kill(record["pid"], signal.SIGKILL)
    record |= {"pid": 0, "pid_start_ticks": 0, "phase": "creating"}
    runner.store.save(record)
    with pytest.raises(Failed, match="cannot start a container in the creating state"):
        runner.call("start", name=record["id"])
    assert runner.store.load(record["id"]) == record
    assert runner.create(record["id"])["phase"] == "created"


def test_a_taken_id_is_refused_and_its_container_lives(runner: Runner) -> None:
    record = runner.create()
    with pytest.raises(Failed, match="already exists"):
        runner.create(record["id"])
    assert state.status(runner.store.load(record["id"])) == "created"


def test_create_killed_at_any_moment_leaves_an_id_that_can_be_made_again(
    runner: Runner,
) -> None:
    name = runner.name()
    runner.bundle("true")
    bundle = str(runner.folder / "bundle")
    for step in range(24):
        process, reply = runner.popen("create", name=name, bundle=bundle)
        time.sleep(0.012 + step * 0.0025)
        process.kill()
        process.wait()
        if reply.exists() or _is_created(runner, name):
            runner.call("delete", name=name)
        else:
            # What is left of it goes before another takes its name.
            record = runner.create(name)
            assert _waiting(name) == [record["pid"]]
            runner.call("delete", name=name)
    record = runner.create(name)
    runner.start(record)


@pytest.mark.parametrize("at", ["before release", "after release"])
def test_a_create_killed_in_its_last_steps_leaves_nothing_to_the_next(
    runner: Runner, at: str
) -> None:
    name = runner.name()
    bundle = str(runner.bundle())
    process, _ = runner.popen("create_killed", name=name, bundle=bundle, at=at)
    assert process.wait(60) == -signal.SIGKILL
    assert runner.store.load(name)["phase"] == "creating"
    if at == "before release":
        eventually(lambda: not _waiting(name))  # its stage hears that nobody is there
    record = runner.create(name)
    assert _waiting(name) == [record["pid"]]


def _is_created(runner: Runner, name: str) -> bool:
    try:
        return runner.store.load(name)["phase"] == "created"
    except Exception:  # noqa: BLE001 - half-made in any way
        return False


def _waiting(name: str) -> list[int]:
    return cgroup.procs(cgroup.resolve(None, name))


def test_a_failure_leaves_no_process_no_cgroup_and_no_state(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/x", "type": "bind", "source": "/nosuch", "options": ["bind"]}
        )

    runner.bundle(change=change)
    with pytest.raises(Failed, match=r"bind /x: cannot bind /nosuch: no such file"):
        runner.create()
    assert_nothing_left(runner)


def assert_nothing_left(runner: Runner) -> None:
    """No container of the runner is anywhere."""
    assert runner.store.ids() == []
    for name in runner.names:
        assert not cgroup.exists(cgroup.resolve(None, name))


def test_a_pid_file_holds_the_pid(runner: Runner, tmp_path: Path) -> None:
    record = runner.create(pid_file=str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == str(record["pid"])


def test_a_pidfd_goes_to_its_socket(runner: Runner, tmp_path: Path) -> None:
    path = str(tmp_path / "pidfd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        record = runner.create(pidfd_socket=path)
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 64, 1)
    text = Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
    os.close(fds[0])
    assert f"Pid:\t{record['pid']}\n" in text


def test_a_terminal_that_nobody_takes_says_what_to_do(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["terminal"] = True

    runner.bundle(change=change)
    with pytest.raises(Failed, match="console socket") as caught:
        runner.create()
    assert "terminal to false" in caught.value.reply["hint"]
    assert_nothing_left(runner)


def test_the_memory_of_one_task_is_enough(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 1}
        config["linux"]["resources"]["memory"] = {"limit": 16 << 20}

    assert runner.run("id", "-u", change=change) == "0\n"


def test_socket_activation_is_passed_on(runner: Runner) -> None:
    runner.bundle("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3")
    name = runner.name()
    shell = 'exec 3</dev/zero; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    bundle = str(runner.folder / "bundle")
    process, _ = runner.popen("create", name=name, bundle=bundle, prefix=["sh", "-c", shell, "sh"])
    assert process.wait(30) == 0
    runner.start(runner.store.load(name))
    assert runner.text().splitlines() == ["1 1", "/dev/zero"]


def test_arguments_and_variables_as_long_as_the_kernel_takes_arrive(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["env"] += [f"V{number}=" + "x" * 100_000 for number in range(8)]

    assert runner.run("sh", "-c", "env | wc -c", change=change).strip() > "800000"


def test_a_terminated_create_takes_everything_back(runner: Runner, tmp_path: Path) -> None:
    def change(config: Config) -> None:
        script = f"echo $$ >{tmp_path}/pid; exec sleep 1000"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}
        config["hooks"] = {"createRuntime": [hook]}

    bundle = runner.bundle(change=change)
    name = runner.name()
    process, reply = runner.popen("create", name=name, bundle=str(bundle))
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.terminate()
    assert process.wait(30) == 0
    assert "interrupted by signal 15" in reply.read_text()
    hook = int((tmp_path / "pid").read_text())
    eventually(lambda: not Path(f"/proc/{hook}/exe").exists())
    assert_nothing_left(runner)


def test_the_plan_is_shown_to_whoever_asks(runner: Runner) -> None:
    from migrate.runtime import plan
    from migrate.runtime.spec import decode

    bundle = runner.bundle("echo", "two words")
    made = plan.for_create(
        decode((bundle / "config.json").read_bytes(), "config.json"),
        container_id="x",
        bundle=str(bundle),
        rootfs=str(runner.rootfs),
        hierarchies=[("", "", "/sys/fs/cgroup/x")],
        no_pivot=False,
        keyring="",
        preserve_fds=0,
    )
    lines = plan.describe(made)
    assert lines[0] == "make namespaces: ipc, uts, network, pid, mount"
    assert "filesystem destination=/proc kind=proc source=proc" in lines
    assert lines.index("pivot_root") < lines.index("mask /proc/kcore")
    assert lines[-1] == 'wait for start, then execute ["echo","two words"]'
