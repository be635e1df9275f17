"""Namespaces of every kind, made and joined."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import Config, Failed, Runner

pytestmark = pytest.mark.root

FILES = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]


def with_namespaces(*kinds: str | tuple[str, str]) -> Any:
    """A change that sets the namespaces, made or joined by path."""

    def change(config: Config) -> None:
        config["linux"]["namespaces"] = [
            {"type": kind} if isinstance(kind, str) else {"type": kind[0], "path": kind[1]}
            for kind in kinds
        ]
        config.pop("hostname", None)
        for mount in config["mounts"]:
            if mount["destination"] == "/dev/pts":
                mount["options"].remove("gid=5")  # not mapped in every user namespace

    return change


def own() -> dict[str, str]:
    """The namespaces of the test."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in FILES}


def inside(runner: Runner, change: Any) -> dict[str, str]:
    """The namespaces of a payload."""
    text = runner.run(
        "sh", "-c", "cd /proc/self/ns; for i in *; do readlink $i; done", change=change
    )
    return {line.partition(":")[0]: line for line in text.splitlines() if "children" not in line}


def test_the_namespaces_named_are_new_and_the_others_the_callers(runner: Runner) -> None:
    seen = inside(runner, with_namespaces("mount", "ipc"))
    mine = own()
    assert {name for name in FILES if seen[name] != mine[name]} == {"mnt", "ipc"}


def test_every_kind_at_once(runner: Runner) -> None:
    kinds = ("mount", "ipc", "uts", "network", "pid", "cgroup", "time")
    seen = inside(runner, with_namespaces(*kinds))
    mine = own()
    assert {name for name in FILES if seen[name] == mine[name]} == {"user"}


KINDS = {
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "pid": "pid",
    "cgroup": "cgroup",
    "time": "time",
    "mount": "mnt",
}


@pytest.fixture(params=[False, True], ids=["", "in a user namespace"])
def holder(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process in namespaces of its own, within a user namespace or not."""
    options = ["--net", "--ipc", "--uts", "--pid", "--cgroup", "--time", "--mount", "--fork"]
    if request.param:
        options += ["--user", "--map-root-user"]
    argv = ["unshare", *options, "sleep", "1000"]
    with subprocess.Popen(argv, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            while not children.read_text():
                os.sched_yield()
            pid = int(children.read_text())
            while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
                os.sched_yield()
            yield pid
        finally:
            os.kill(pid, 9)
            process.wait()


def test_namespaces_are_joined_by_path(runner: Runner, holder: int) -> None:
    kinds = dict(KINDS)
    if os.readlink(f"/proc/{holder}/ns/user") != os.readlink("/proc/self/ns/user"):
        kinds["user"] = "user"
    # What is mounted in a mount namespace that is joined is seen by those in it.
    del kinds["mount"]
    paths = {kind: f"/proc/{holder}/ns/{name}" for kind, name in kinds.items()}
    seen = inside(runner, with_namespaces("mount", *paths.items()))
    for kind, name in kinds.items():
        assert seen[name] == os.readlink(paths[kind]), kind
    assert seen["mnt"] != os.readlink(f"/proc/{holder}/ns/mnt")


def test_a_mount_namespace_is_joined_by_path(runner: Runner, holder: int) -> None:
    path = f"/proc/{holder}/ns/mnt"
    assert inside(runner, with_namespaces(("mount", path)))["mnt"] == os.readlink(path)


def test_a_path_that_is_no_namespace_of_its_kind_is_refused(runner: Runner, holder: int) -> None:
    for path, words in (
        (f"/proc/{holder}/ns/net", "another kind"),
        ("/etc/passwd", "no namespace"),
        ("/nosuch", "no such file"),
    ):
        runner.bundle(change=with_namespaces("mount", ("ipc", path)))
        with pytest.raises(Failed, match=words):
            runner.create()


def with_user_namespace(config: Config) -> None:
    """Ids 0 to 65535 are 100000 to 165535 outside."""
    linux = config["linux"]
    linux["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux["uidMappings"] = linux["gidMappings"] = mapping


def test_a_user_namespace_maps_ids_and_binds_devices(runner: Runner) -> None:
    for path in [runner.folder, *runner.folder.parents][:3]:
        path.chmod(0o755)
    for path in [runner.rootfs, *runner.rootfs.iterdir()]:
        os.chown(path, 100000, 100000)
    script = """
        id -u; cat /proc/self/uid_map; stat -c '%n %t:%T' /dev/null /dev/tty
        grep -c ' /dev/null ' /proc/self/mountinfo; ls -A /sys/firmware | wc -l
        cat /proc/keys | wc -c; cat /sys/fs/cgroup/memory/cgroup.procs | head -1
    """
    text = runner.run("sh", "-c", script, change=with_user_namespace)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "0",
        "0 100000 65536",
        "/dev/null 1:3",
        "/dev/tty 5:0",
        "1",
        "0",
        "0",
        "1",
    ]


@pytest.mark.parametrize("path", ["/dev/zero", "/etc/hosts"])
def test_a_device_of_the_host_that_is_another_is_not_bound(runner: Runner, path: str) -> None:
    def change(config: Config) -> None:
        with_user_namespace(config)
        config["linux"]["devices"] = [{"path": path, "type": "c", "major": 1, "minor": 3}]

    for folder in [runner.folder, *runner.folder.parents][:3]:
        folder.chmod(0o755)
    for place in [runner.rootfs, *runner.rootfs.iterdir()]:
        os.chown(place, 100000, 100000)
    runner.bundle(change=change)
    with pytest.raises(Failed, match=f"{path} of the host is not the device"):
        runner.create()


def test_a_bind_source_out_of_reach_of_the_mapped_root_is_opened_for_it(
    runner: Runner, tmp_path: Path
) -> None:
    for path in [runner.folder, *runner.folder.parents][:3]:
        path.chmod(0o755)
    for path in [runner.rootfs, *runner.rootfs.iterdir()]:
        os.chown(path, 100000, 100000)
    secret = tmp_path / "secret"
    (secret / "shared").mkdir(parents=True)
    (secret / "shared" / "x").write_text("seen\n")
    secret.chmod(0o700)

    def change(config: Config) -> None:
        with_user_namespace(config)
        source = str(secret / "shared")
        config["mounts"].append({"destination": "/s", "source": source, "options": ["rbind"]})

    assert runner.run("cat", "/s/x", change=change) == "seen\n"


def test_clocks_of_a_time_namespace_are_set_off(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {
            "monotonic": {"secs": 1000, "nanosecs": 5},
            "boottime": {"secs": 864000},
        }

    text = runner.run("cat", "/proc/self/timens_offsets", "/proc/uptime", change=change)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["monotonic", "1000", "5"]
    assert lines[1] == ["boottime", "864000", "0"]
    here = float(Path("/proc/uptime").read_text().split()[0])
    assert 864000 <= float(lines[2][0]) - here + 5 <= 864010


def test_a_new_cgroup_namespace_starts_at_the_containers_group(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "cgroup"})

    text = runner.run("sh", "-c", "cat /proc/self/cgroup", change=change)
    assert {line.split(":", 2)[2] for line in text.splitlines()} == {"/"}
    text = runner.run("cat", "/sys/fs/cgroup/memory/cgroup.procs", change=change)
    assert text == "1\n"


def test_without_a_pid_namespace_the_procfs_is_the_callers(runner: Runner) -> None:
    text = runner.run("readlink", "/proc/self", change=with_namespaces("mount"))
    assert int(text) > 1


# Stage 1 on its way into a user namespace; it says whether it could be traced from there.
JOINER = """
import os, sys
from migrate import syscalls
from migrate.runtime.init import namespaces

PR_GET_DUMPABLE = 3
setns = syscalls.setns

def watched(fd, kind):
    if kind == syscalls.CLONE_NEWNS:
        print(syscalls.prctl(PR_GET_DUMPABLE))
    setns(fd, kind)

syscalls.setns = watched
join = [(syscalls.CLONE_NEWUSER, "user"), (syscalls.CLONE_NEWNS, "mnt")]
fds = [os.open(f"/proc/{sys.argv[1]}/ns/{name}", os.O_RDONLY) for _, name in join]
plan = {"stage": "exec", "join": join, "unshare": 0, "time_offsets": ""}
namespaces.enter(None, plan, fds)
"""


@pytest.mark.parametrize("holder", [True], indirect=True)
def test_who_joins_a_user_namespace_cannot_be_traced_from_it(holder: int) -> None:
    """Not even before the mount namespace is joined: until then its root is the host's."""
    folder = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-c", JOINER, str(holder)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
