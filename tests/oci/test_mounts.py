"""mounts, root, masked and read-only paths: what a container sees of file systems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .driver import Bundle, Config, Runtime, mounts_below


def with_mount(
    destination: str, kind: str = "bind", source: str | Path = "none", *options: str
) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": destination, "type": kind, "source": str(source),
             "options": list(options)}
        )  # fmt: skip

    return change


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the host to bind, with a file in it."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("of the host\n")
    return path


@pytest.fixture
def tree(source: Path) -> Iterator[Path]:
    """`source` with another file system mounted at its directory `inner`."""
    inner = source / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", inner], check=True)
    (inner / "deep").write_text("deep\n")
    try:
        yield source
    finally:
        subprocess.run(["umount", inner], check=True)


def options_of(mountinfo: str, destination: str) -> set[str]:
    """Mount and superblock options of the last mount at `destination`."""
    lines = [line.split() for line in mountinfo.splitlines()]
    fields = [f for f in lines if f[4] == destination][-1]
    return set(fields[5].split(",")) | set(fields[-1].split(","))


def test_the_mounts_of_the_spec_are_there_in_their_order(runtime: Runtime) -> None:
    out = runtime.shell("cat /proc/self/mountinfo")
    kinds = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in out.splitlines()}
    expected = {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
    }
    assert {key: kinds.get(key) for key in expected} == expected
    assert options_of(out, "/dev/shm") >= {"nosuid", "noexec", "nodev", "size=65536k"}
    assert options_of(out, "/sys") >= {"ro", "nosuid", "noexec", "nodev"}
    assert options_of(out, "/dev/pts") >= {"nosuid", "noexec", "gid=5", "ptmxmode=666"}


def test_nothing_of_the_hosts_mounts_is_seen(runtime: Runtime) -> None:
    points = [line.split()[4] for line in runtime.shell("cat /proc/self/mountinfo").splitlines()]
    assert points[0] == "/"
    assert not [p for p in points if p.startswith((str(runtime.workspace), "/run", "/tmp"))]


def test_the_hosts_mount_table_stays_as_it_was(runtime: Runtime) -> None:
    before = Path("/proc/self/mountinfo").read_text().splitlines()
    runtime.started()
    ours = str(runtime.workspace)
    after = Path("/proc/self/mountinfo").read_text().splitlines()
    assert [line for line in after if line not in before and ours in line] == []


def test_a_bind_mount_shows_the_hosts_directory(runtime: Runtime, source: Path) -> None:
    change = with_mount("/made/point", "bind", source, "bind")
    assert runtime.shell("cat /made/point/file; echo new > /made/point/new", change=change)
    assert (source / "new").read_text() == "new\n"


def test_a_bind_mount_of_a_file_makes_its_mount_point(runtime: Runtime, source: Path) -> None:
    change = with_mount("/etc/deep/name", "bind", source / "file", "bind", "ro")
    script = "cat /etc/deep/name; echo x > /etc/deep/name || echo refused"
    assert runtime.shell(script, change=change) == "of the host\nrefused\n"


def test_a_read_only_bind_mount_leaves_the_source_writable(runtime: Runtime, source: Path) -> None:
    change = with_mount("/mnt", "bind", source, "bind", "ro")
    assert runtime.shell("touch /mnt/x || echo refused", change=change) == "refused\n"
    (source / "still-writable").touch()


def test_a_relative_source_is_beside_the_config(runtime: Runtime) -> None:
    bundle = runtime.bundle("cat", "/mnt/note", change=with_mount("/mnt", "bind", "beside", "bind"))
    (bundle.path / "beside").mkdir()
    (bundle.path / "beside/note").write_text("beside\n")
    assert runtime.run(bundle).out == "beside\n"


def test_bind_leaves_submounts_out_and_rbind_takes_them_along(runtime: Runtime, tree: Path) -> None:
    script = "cat /mnt/inner/deep 2>/dev/null || echo absent"
    assert runtime.shell(script, change=with_mount("/mnt", "bind", tree, "bind")) == "absent\n"
    assert runtime.shell(script, change=with_mount("/mnt", "bind", tree, "rbind")) == "deep\n"
    script = "touch /mnt/x || echo refused; touch /mnt/inner/x && echo written"
    out = runtime.shell(script, change=with_mount("/mnt", "bind", tree, "rbind", "ro"))
    assert out == "refused\nwritten\n"


def test_a_recursive_read_only_bind_covers_the_submounts(runtime: Runtime, tree: Path) -> None:
    script = "touch /mnt/x || echo refused; touch /mnt/inner/x || echo refused"
    change = with_mount("/mnt", "bind", tree, "rbind", "rro")
    assert runtime.shell(script, change=change) == "refused\nrefused\n"


def test_a_source_that_is_missing_is_named(runtime: Runtime) -> None:
    bundle = runtime.bundle(change=with_mount("/mnt", "bind", "/no/such/source", "bind"))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "/no/such/source" in error
    assert runtime.ids() == []


@pytest.mark.parametrize(
    ("options", "seen", "unseen"),
    [
        (["nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec"}, set()),
        (["nosuid", "suid"], set(), {"nosuid"}),
        (["noatime"], {"noatime"}, {"relatime"}),
        (["nodiratime"], {"nodiratime"}, set()),
        (["strictatime"], set(), {"relatime", "noatime"}),
        (["ro"], {"ro"}, {"rw"}),
        (["ro", "rw"], {"rw"}, {"ro"}),
        (["mode=700", "size=128k"], {"mode=700", "size=128k"}, set()),
    ],
)
def test_options_of_a_tmpfs(
    runtime: Runtime, options: list[str], seen: set[str], unseen: set[str]
) -> None:
    out = runtime.shell(
        "cat /proc/self/mountinfo", change=with_mount("/mnt", "tmpfs", "tmpfs", *options)
    )
    assert seen <= options_of(out, "/mnt")
    own = next(line.split()[5] for line in out.splitlines() if line.split()[4] == "/mnt")
    assert not unseen & set(own.split(","))


def test_options_of_a_bind_mount_are_set_too(runtime: Runtime, source: Path) -> None:
    change = with_mount("/mnt", "bind", source, "bind", "nosuid", "nodev", "noexec", "noatime")
    found = options_of(runtime.shell("cat /proc/self/mountinfo", change=change), "/mnt")
    assert found >= {"nosuid", "nodev", "noexec", "noatime"}


def test_an_unknown_file_system_is_named(runtime: Runtime) -> None:
    bundle = runtime.bundle(change=with_mount("/mnt", "nonesuchfs", "x"))
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "/mnt" in error


def propagation(mountinfo: str, destination: str) -> str:
    """The optional fields of a mount: shared:N, master:N or nothing."""
    for line in mountinfo.splitlines():
        before, _, _ = line.partition(" - ")
        if before.split()[4] == destination:
            return " ".join(word.partition(":")[0] for word in before.split()[6:])
    raise AssertionError(f"no mount at {destination}")


@pytest.mark.parametrize(
    ("option", "expected"),
    [("private", ""), ("rprivate", ""), ("slave", "master"), ("rslave", "master"),
     ("shared", "shared"), ("rshared", "shared"), ("unbindable", "unbindable")],
)  # fmt: skip
def test_the_propagation_of_a_mount(
    runtime: Runtime, tree: Path, option: str, expected: str
) -> None:
    def change(config: Config) -> None:
        config["linux"]["rootfsPropagation"] = "rshared" if "shared" in option else "rslave"
        with_mount("/mnt", "bind", tree / "inner", "rbind", option)(config)

    subprocess.run(["mount", "--make-shared", tree / "inner"], check=True)
    out = runtime.shell("cat /proc/self/mountinfo", change=change)
    assert expected in propagation(out, "/mnt")
    if not expected:
        assert propagation(out, "/mnt") == ""


def test_a_slave_mount_sees_what_the_host_mounts_later(runtime: Runtime, tree: Path) -> None:
    def change(config: Config) -> None:
        config["linux"]["rootfsPropagation"] = "rslave"
        with_mount("/mnt", "bind", tree / "inner", "rbind", "rslave")(config)

    subprocess.run(["mount", "--make-shared", tree / "inner"], check=True)
    container = runtime.started(runtime.bundle(change=change))
    later = tree / "inner/later"
    later.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "later", later], check=True)
    try:
        (later / "file").write_text("seen\n")
        assert container.exec("cat", "/mnt/later/file") == "seen\n"
    finally:
        subprocess.run(["umount", later], check=True)


def test_a_mount_made_inside_stays_inside(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        for name in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][name] += ["CAP_SYS_ADMIN"]

    bundle = runtime.bundle(
        "sh", "-c", "mount -t tmpfs x /tmp && echo up; sleep 999", change=change
    )
    container = runtime.started(bundle)
    container.wait_for_output("up")
    assert mounts_below(runtime.workspace) == []


def test_a_read_only_root_refuses_writes_and_keeps_dev_writable(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["root"]["readonly"] = True

    script = "touch /x || echo refused; touch /dev/shm/x && echo written"
    assert runtime.shell(script, change=change) == "refused\nwritten\n"


def test_a_writable_root_is_the_rootfs_of_the_bundle(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "echo hello > /tmp/x")
    runtime.run(bundle)
    assert (bundle.rootfs / "tmp/x").read_text() == "hello\n"


def test_an_absolute_root_path_and_another_name_work(runtime: Runtime) -> None:
    bundle = runtime.bundle("echo", "found")
    os.rename(bundle.rootfs, bundle.path / "elsewhere")
    for path in ("elsewhere", str(bundle.path / "elsewhere"), "./elsewhere/"):
        bundle.config["root"]["path"] = path
        bundle.write()
        assert runtime.run(bundle).out == "found\n"


def test_a_root_that_is_missing_is_named(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["root"]["path"] = "nonesuch"

    bundle = runtime.bundle(change=change)
    error = runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert "nonesuch" in error


def test_masked_paths_show_nothing(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["linux"]["maskedPaths"] += ["/etc/passwd", "/home", "/not/there"]

    script = "wc -c < /etc/passwd; ls -A /home | wc -l; touch /home/x || echo refused"
    assert runtime.shell(script, change=change).split() == ["0", "0", "refused"]


def test_readonly_paths_refuse_writes(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["linux"]["readonlyPaths"] += ["/etc", "/tmp", "/not/there"]

    script = """
        touch /etc/x || echo etc
        echo x > /tmp/x || echo tmp
        echo 1 > /proc/sys/net/ipv4/ip_forward || echo sys
        touch /home/x && echo home
    """
    assert runtime.shell(script, change=change).split() == ["etc", "tmp", "sys", "home"]


def test_no_pivot_runs_the_container_too(runtime: Runtime) -> None:
    result = runtime.run(runtime.bundle("ls", "/"), "--no-pivot")
    assert result.status == 0
    assert "bin" in result.out.split()


def test_no_pivot_and_a_private_root_are_refused(runtime: Runtime) -> None:
    bundle = runtime.bundle(
        change=lambda config: config["linux"].update(rootfsPropagation="rprivate")
    )
    arguments = ["create", "--no-pivot", "--bundle", str(bundle.path), runtime.new_id()]
    assert "pivot_root" in runtime.refuses(*arguments)


def test_mount_points_follow_links_inside_the_root_only(runtime: Runtime, source: Path) -> None:
    bundle = runtime.bundle("cat", "/real/file", change=with_mount("/link", "bind", source, "bind"))
    outside = runtime.workspace / "outside"
    outside.mkdir()
    (bundle.rootfs / "link").symlink_to("/real")
    (bundle.rootfs / "real").mkdir()
    assert runtime.run(bundle).out == "of the host\n"
    (bundle.rootfs / "link").unlink()
    (bundle.rootfs / "link").symlink_to(f"../../../../../../..{outside}")
    runtime.run(bundle)
    assert list(outside.iterdir()) == []


def cgroup_view(runtime: Runtime, options: list[str]) -> tuple[Bundle, str]:
    def change(config: Config) -> None:
        for mount in config["mounts"]:
            if mount["type"] == "cgroup":
                mount["options"] = options

    bundle = runtime.bundle(
        "sh", "-c", "cat /sys/fs/cgroup/*/cgroup.procs; cat /sys/fs/cgroup/cgroup.procs; true",
        change=change,
    )  # fmt: skip
    return bundle, runtime.run(bundle).out


def test_the_cgroup_mount_shows_the_containers_own_cgroups(runtime: Runtime) -> None:
    _, out = cgroup_view(runtime, ["nosuid", "noexec", "nodev", "relatime", "ro"])
    pids = set(out.split())
    assert "1" in pids
    # The shell and the cat; a host's cgroup would list many, or zeros.
    assert len(pids) == 2


@pytest.mark.parametrize("destination", ["/proc/self", "/proc/1/root", "/proc/sys/kernel"])
def test_nothing_is_mounted_over_proc(runtime: Runtime, source: Path, destination: str) -> None:
    bundle = runtime.bundle(change=with_mount(destination, "bind", source, "bind"))
    runtime.refuses("create", "--bundle", str(bundle.path), runtime.new_id())
    assert runtime.ids() == []


def test_mounts_are_optional(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["mounts"] = []
        config["linux"]["maskedPaths"] = []
        config["linux"]["readonlyPaths"] = []

    def bare(config: Config) -> None:
        change(config)
        entry: dict[str, Any] = {"destination": "/proc", "type": "proc", "source": "proc"}
        config["mounts"] = [entry]

    assert runtime.shell("ls /proc/1/status", change=bare) == "/proc/1/status\n"
