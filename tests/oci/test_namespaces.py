"""linux.namespaces, hostname, sysctl: what is new, what is joined, what is left alone."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .driver import Config, Runtime, eventually, killed_at_end

# Name in config.json -> file below /proc/PID/ns.
KINDS = {
    "mount": "mnt",
    "uts": "uts",
    "ipc": "ipc",
    "network": "net",
    "pid": "pid",
    "cgroup": "cgroup",
}
MAPS = [{"containerID": 0, "hostID": 200000, "size": 65536}]


def with_namespaces(*changes: dict[str, str]) -> Callable[[Config], None]:
    """Replace or add namespaces by their type."""

    def change(config: Config) -> None:
        namespaces = {n["type"]: n for n in config["linux"]["namespaces"]}
        namespaces.update({n["type"]: n for n in changes})
        config["linux"]["namespaces"] = list(namespaces.values())

    return change


def without_namespace(kind: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        namespaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [n for n in namespaces if n["type"] != kind]

    return change


def with_user_namespace(config: Config) -> None:
    with_namespaces({"type": "user"})(config)
    config["linux"]["uidMappings"] = MAPS
    config["linux"]["gidMappings"] = MAPS


def inode(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{KINDS.get(kind, kind)}")


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process with every namespace its own, whose namespaces can be joined by path."""
    command = ["unshare", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--mount", "--fork"]
    with killed_at_end(
        subprocess.Popen(
            [*command, "--kill-child", "sh", "-c", "hostname stranger; exec sleep 999"]
        )
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        child = int(eventually(lambda: children.read_text().split(), "the child is there")[0])
        eventually(
            lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", "its host name is set"
        )
        yield child


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_namespace_without_a_path_is_new(runtime: Runtime, kind: str) -> None:
    container = runtime.create(runtime.bundle(change=with_namespaces({"type": kind})))
    assert inode(container.pid, kind) != inode("self", kind)


@pytest.mark.parametrize("kind", ["uts", "ipc", "network", "pid", "cgroup", "user"])
def test_a_namespace_that_is_not_listed_is_the_callers(runtime: Runtime, kind: str) -> None:
    def change(config: Config) -> None:
        without_namespace(kind)(config)
        if kind == "uts":
            del config["hostname"]
        if kind == "network":
            # sysfs needs a network namespace of its own owner; bind the host's instead.
            config["mounts"] = [m for m in config["mounts"] if m["type"] != "sysfs"]

    container = runtime.create(runtime.bundle(change=change))
    assert inode(container.pid, kind) == inode("self", kind)


@pytest.mark.parametrize("kind", ["uts", "ipc", "network", "pid", "cgroup"])
def test_a_namespace_is_joined_by_path(runtime: Runtime, stranger: int, kind: str) -> None:
    def change(config: Config) -> None:
        path = f"/proc/{stranger}/ns/{KINDS[kind]}"
        with_namespaces({"type": kind, "path": path})(config)
        if kind == "uts":
            del config["hostname"]

    container = runtime.started(runtime.bundle(change=change))
    assert inode(container.pid, kind) == inode(stranger, kind)
    if kind == "uts":
        assert container.exec("hostname") == "stranger\n"


def test_a_pid_namespace_joined_by_path_is_entered_by_exec_too(
    runtime: Runtime, stranger: int
) -> None:
    path = {"type": "pid", "path": f"/proc/{stranger}/ns/pid"}
    container = runtime.started(runtime.bundle(change=with_namespaces(path)))
    assert "sleep 999" in container.exec("ps", "-o", "args")


@pytest.mark.parametrize("path", ["/nonesuch", "/proc/self/status", "/proc/self/ns/uts"])
def test_a_path_that_is_no_such_namespace_is_refused(runtime: Runtime, path: str) -> None:
    bundle = runtime.bundle(change=with_namespaces({"type": "network", "path": path}))
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []


def test_the_first_process_of_a_pid_namespace_is_one(runtime: Runtime) -> None:
    assert runtime.shell("echo $$; ps -o pid,args | head -2").split()[:4] == [
        "1",
        "PID",
        "COMMAND",
        "1",
    ]


def test_loopback_is_up_in_a_new_network_namespace(runtime: Runtime) -> None:
    out = runtime.shell("cat /sys/class/net/lo/operstate; ip -o addr show lo; ls /sys/class/net")
    assert "127.0.0.1/8" in out
    assert out.split()[-1] == "lo"


def test_the_hostname_is_the_configs(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["hostname"] = "name-of-mine"

    assert runtime.shell("hostname", change=change) == "name-of-mine\n"
    assert os.uname().nodename != "name-of-mine"


def test_the_domainname_is_the_configs(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["domainname"] = "domain.of.mine"

    assert runtime.shell("cat /proc/sys/kernel/domainname", change=change) == "domain.of.mine\n"


def with_offsets(**offsets: dict[str, int]) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = offsets

    return change


def test_the_clocks_of_a_time_namespace_are_set_off(runtime: Runtime) -> None:
    change = with_offsets(
        monotonic={"secs": 86400, "nanosecs": 5}, boottime={"secs": 1_000_000, "nanosecs": 7}
    )
    script = "cat /proc/self/timens_offsets; cut -d . -f 1 /proc/uptime"
    words = runtime.shell(script, change=change).split()
    assert words[:6] == ["monotonic", "86400", "5", "boottime", "1000000", "7"]
    ours = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 <= int(words[6]) - (int(ours) - 60) - 1_000_000 <= 120


@pytest.mark.parametrize(
    ("offsets", "named"),
    [
        ({"realtime": {"secs": 1}}, "realtime"),
        ({"monotonic": {"secs": 1, "nanosecs": 1_000_000_000}}, "nanosecs"),
        ({"monotonic": {"secs": -(2**62)}}, "clocks"),
        ({"monotonic": {"secs": "1"}}, "secs"),
    ],
)
def test_clocks_that_cannot_be_set_off_are_named(
    runtime: Runtime, offsets: dict[str, Any], named: str
) -> None:
    bundle = runtime.bundle(change=with_offsets(**offsets))
    assert named in runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []


def test_a_hostname_without_a_uts_namespace_of_its_own_is_refused(runtime: Runtime) -> None:
    before = os.uname().nodename
    bundle = runtime.bundle(change=without_namespace("uts"))
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert os.uname().nodename == before


def test_a_user_namespace_maps_its_root_to_another_user_of_the_host(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "id -u; cat /proc/self/uid_map", change=with_user_namespace)
    open_to_all(bundle.path)
    container = runtime.started(bundle)
    container.wait_until("stopped")
    words = container.written().split()
    assert words == ["0", "0", "200000", "65536"]


def test_in_a_user_namespace_every_mount_and_device_is_there(runtime: Runtime) -> None:
    script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; ls /proc/1/status /sys/kernel"
    bundle = runtime.bundle("sh", "-c", script, change=with_user_namespace)
    open_to_all(bundle.path)
    result = runtime.run(bundle)
    assert (result.status, result.out.split()[0]) == (0, "4"), str(result)


def test_exec_enters_the_user_namespace(runtime: Runtime) -> None:
    bundle = runtime.bundle(change=with_user_namespace)
    open_to_all(bundle.path)
    container = runtime.started(bundle)
    assert inode(container.pid, "user") != inode("self", "user")
    assert container.exec("readlink", "/proc/self/ns/user").strip() == inode(container.pid, "user")
    assert container.exec("id", "-u") == "0\n"
    assert os.stat(f"/proc/{container.pid}").st_uid == 200000


def test_a_user_namespace_of_several_maps_has_them_all(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        with_user_namespace(config)
        for kind in ("uidMappings", "gidMappings"):
            config["linux"][kind] = [
                {"containerID": 0, "hostID": 300000, "size": 10},
                {"containerID": 1000, "hostID": 0, "size": 1},
            ]

    bundle = runtime.bundle("cat", "/proc/self/gid_map", change=change)
    open_to_all(bundle.path)
    assert runtime.run(bundle).out.split() == ["0", "300000", "10", "1000", "0", "1"]


def test_limits_of_a_user_namespace_are_set_in_its_own_only(runtime: Runtime) -> None:
    limit = {"user.max_inotify_watches": "12345"}

    def change(config: Config) -> None:
        with_user_namespace(config)
        config["linux"]["sysctl"] = limit

    bundle = runtime.bundle("cat", "/proc/sys/user/max_inotify_watches", change=change)
    open_to_all(bundle.path)
    assert runtime.run(bundle).out == "12345\n"
    bundle = runtime.bundle(change=lambda config: config["linux"].update(sysctl=limit))
    assert "user.max" in runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())


def test_a_user_namespace_without_maps_is_refused(runtime: Runtime) -> None:
    bundle = runtime.bundle(change=with_namespaces({"type": "user"}))
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []


def test_a_sysctl_of_the_new_namespace_is_set(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["linux"]["sysctl"] = {
            "net.ipv4.ip_forward": "1",
            "kernel.msgmax": "12345",
            "net.ipv4.ip_local_port_range": "2000 3000",
        }

    here = Path("/proc/sys/kernel/msgmax").read_text()
    script = "cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax net/ipv4/ip_local_port_range"
    assert runtime.shell(script, change=change).split() == ["1", "12345", "2000", "3000"]
    assert Path("/proc/sys/kernel/msgmax").read_text() == here


@pytest.mark.parametrize("key", ["kernel.panic", "vm.swappiness", "fs.file-max"])
def test_a_sysctl_of_the_host_is_refused(runtime: Runtime, key: str) -> None:
    def change(config: Config) -> None:
        config["linux"]["sysctl"] = {key: "1"}

    path = Path("/proc/sys") / key.replace(".", "/")
    before = path.read_text()
    bundle = runtime.bundle(change=change)
    assert key in runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert path.read_text() == before


def test_a_sysctl_without_its_namespace_is_refused(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        without_namespace("network")(config)
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}

    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "net.ipv4.ip_forward" in error


def open_to_all(path: Path) -> None:
    """Let users of the host other than root reach `path`, of the folders made for tests."""
    shared = Path(tempfile.gettempdir()).resolve()
    for folder in [path, *path.parents]:
        if shared not in folder.parents:
            return
        folder.chmod(folder.stat().st_mode & 0o7777 | 0o055)
