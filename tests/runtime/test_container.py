"""What a payload finds around it: identity, limits, mounts, devices, kernel parameters."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.runtime.conftest import Config, Failed, Runner

pytestmark = pytest.mark.root

ALL = (1 << 41) - 1


def capabilities(runner: Runner) -> dict[str, int]:
    """The five sets of the payload."""
    lines = [line.split() for line in runner.text().splitlines()]
    return {words[0]: int(words[1], 16) for words in lines if words[0].startswith("Cap")}


def test_the_five_capability_sets_are_exactly_as_asked(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        config["process"]["capabilities"] = {
            "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_NET_RAW"],
            "permitted": ["CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
            "ambient": ["CAP_NET_RAW"],
        }

    runner.run("grep", "Cap", "/proc/self/status", change=change)
    kill, chown, raw = 1 << 5, 1 << 0, 1 << 13
    # Through execve the permitted and effective sets become the ambient one.
    assert capabilities(runner) == {
        "CapInh:": kill | raw,
        "CapPrm:": raw,
        "CapEff:": raw,
        "CapBnd:": kill | chown | raw,
        "CapAmb:": raw,
    }


def test_without_capabilities_there_are_none(runner: Runner) -> None:
    def change(config: Config) -> None:
        del config["process"]["capabilities"]

    runner.run("grep", "Cap", "/proc/self/status", change=change)
    assert set(capabilities(runner).values()) == {0}


def test_user_groups_umask_and_working_directory(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": 7, "gid": 8, "umask": 0o27, "additionalGids": [9, 10]}
        config["process"]["cwd"] = "/tmp/made/for/it"

    text = runner.run(
        "sh", "-c", "id -u; id -G; umask; pwd; readlink /proc/self/cwd", change=change
    )
    assert text.splitlines() == ["7", "8 9 10", "0027", "/tmp/made/for/it", "/tmp/made/for/it"]


def test_home_comes_from_the_containers_passwd(runner: Runner) -> None:
    (runner.rootfs / "etc" / "passwd").write_text("root:x:0:0::/root:\nme:x:5:5::/home/me:\n")

    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": 5, "gid": 5}

    assert runner.run("sh", "-c", "echo $HOME", change=change) == "/home/me\n"


def test_no_new_privileges_is_set_and_not_set(runner: Runner) -> None:
    def unset(config: Config) -> None:
        config["process"]["noNewPrivileges"] = False

    assert "NoNewPrivs:\t1" in runner.run("grep", "NoNew", "/proc/self/status")
    assert "NoNewPrivs:\t0" in runner.run("grep", "NoNew", "/proc/self/status", change=unset)


def test_limits_and_the_oom_score_are_set(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["rlimits"] = [
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]
        config["process"]["oomScoreAdj"] = 321

    text = runner.run("cat", "/proc/self/limits", "/proc/self/oom_score_adj", change=change)
    lines = {" ".join(line.split()[:-1]) for line in text.splitlines()}
    assert "Max open files 100 200" in lines
    assert "Max core file size 0 0" in lines
    assert text.endswith("\n321\n")


def test_a_limit_above_the_hosts_is_refused_by_name(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 << 40}]

    runner.bundle(change=change)
    with pytest.raises(Failed, match="RLIMIT_NOFILE"):
        runner.create()


def test_names_and_kernel_parameters_are_set_in_the_container_alone(runner: Runner) -> None:
    before = os.uname().nodename, Path("/proc/sys/net/ipv4/ip_forward").read_text()

    def change(config: Config) -> None:
        config["hostname"] = "inside"
        config["domainname"] = "example.org"
        config["linux"]["sysctl"] = {
            "net.ipv4.ip_forward": "1",
            "net/ipv4/ip_default_ttl": "77",
            "kernel.msgmax": "4242",
        }

    text = runner.run(
        "sh",
        "-c",
        "hostname; cd /proc/sys; cat kernel/domainname net/ipv4/ip_forward "
        "net/ipv4/ip_default_ttl kernel/msgmax",
        change=change,
    )
    assert text.split() == ["inside", "example.org", "1", "77", "4242"]
    assert before == (os.uname().nodename, Path("/proc/sys/net/ipv4/ip_forward").read_text())


def test_a_kernel_parameter_that_is_not_there_is_said(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["linux"]["sysctl"] = {"net.ipv4.nosuch": "1"}

    runner.bundle(change=change)
    with pytest.raises(Failed, match=r"cannot set the sysctl net\.ipv4\.nosuch"):
        runner.create()


def test_paths_are_masked_and_read_only(runner: Runner) -> None:
    script = """
        stat -c %t:%T /proc/keys; ls -A /sys/firmware | wc -l
        touch /proc/sys/kernel/hostname 2>/dev/null || echo denied
        echo x 2>/dev/null >/proc/sys/kernel/hostname || echo denied
        echo x 2>/dev/null >/sys/firmware/x || echo denied
    """
    assert runner.run("sh", "-c", script).split() == ["1:3", "0", "denied", "denied", "denied"]


def test_a_read_only_root_is_one(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["root"]["readonly"] = True

    text = runner.run(
        "sh", "-c", "touch /x || echo no; touch /dev/shm/x && echo yes", change=change
    )
    assert text.splitlines()[-2:] == ["no", "yes"]


def test_default_and_configured_devices_are_made(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["linux"]["devices"] = [
            {"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640},
            {"path": "/dev/in/deep", "type": "p", "uid": 3, "gid": 4, "fileMode": 0o600},
        ]

    script = """
        cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty fuse2
        stat -c '%n %F %u %g %a' in/deep; for i in fd stdin ptmx; do readlink $i; done
    """
    assert runner.run("sh", "-c", script, change=change).splitlines() == [
        "null 1:3 666",
        "zero 1:5 666",
        "full 1:7 666",
        "random 1:8 666",
        "urandom 1:9 666",
        "tty 5:0 666",
        "fuse2 a:e5 640",
        "in/deep fifo 3 4 600",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "pts/ptmx",
    ]


def test_the_null_device_on_standard_streams_is_the_containers_own(runner: Runner) -> None:
    text = runner.run("sh", "-c", "stat -L -c %d /dev/null /proc/self/fd/0 | uniq | wc -l")
    assert text == "1\n"


def test_bind_mounts_files_directories_and_their_options(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one").write_text("1\n")
    (tmp_path / "file").write_text("file\n")

    def change(config: Config) -> None:
        data, file = str(tmp_path / "data"), str(tmp_path / "file")
        config["mounts"] += [
            {"destination": "/mnt/new/data", "type": "bind", "source": data, "options": ["rbind"]},
            {
                "destination": "/mnt/ro",
                "source": data,
                "options": ["bind", "ro", "nosuid", "nodev", "noexec", "noatime"],
            },
            {"destination": "/etc/new/file", "type": "bind", "source": file, "options": ["bind"]},
            {"destination": "/rel", "type": "bind", "source": "rootfs/etc", "options": ["bind"]},
        ]

    script = """
        cat /mnt/new/data/one /etc/new/file; echo w >/mnt/new/data/two
        touch /mnt/ro/x 2>/dev/null || echo denied
        grep ' /mnt/ro ' /proc/self/mountinfo | cut -d' ' -f6; test -d /rel/new && echo rel
    """
    (runner.rootfs / "bin" / "cut").symlink_to("busybox")
    (runner.rootfs / "bin" / "test").symlink_to("busybox")
    text = runner.run("sh", "-c", script, change=change)
    assert text.splitlines() == ["1", "file", "denied", "ro,nosuid,nodev,noexec,noatime", "rel"]
    assert (tmp_path / "data" / "two").read_text() == "w\n"


def test_recursively_read_only_covers_the_mounts_below(runner: Runner, tmp_path: Path) -> None:
    top, below = tmp_path / "top", tmp_path / "top" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:

        def bind(*options: str) -> str:
            def change(config: Config) -> None:
                config["mounts"].append(
                    {"destination": "/m", "source": str(top), "options": ["rbind", *options]}
                )

            return runner.run("sh", "-c", "touch /m/below/x 2>&1 && echo yes", change=change)

        assert bind("ro") == "yes\n"
        assert "Read-only" in bind("rro")
    finally:
        subprocess.run(["umount", below], check=True)


def test_nothing_mounted_in_the_container_is_seen_outside(runner: Runner) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    runner.bundle()
    runner.create()
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("propagation", ["shared", "rshared", "slave", "rslave", "private"])
def test_the_root_has_the_propagation_asked_for(runner: Runner, propagation: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()

    def change(config: Config) -> None:
        config["linux"]["rootfsPropagation"] = propagation

    text = runner.run("grep", " / / \\| / rw", "/proc/self/mountinfo", change=change)
    root = next(line for line in text.splitlines() if line.split()[4] == "/")
    assert ("shared:" in root) == ("shared" in propagation)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_new_file_system_takes_its_options(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["mounts"].append(
            {
                "destination": "/t",
                "type": "tmpfs",
                "source": "mine",
                "options": ["size=1m", "mode=1730", "uid=3", "ro", "nosuid"],
            }
        )

    text = runner.run("sh", "-c", "stat -c '%a %u' /t; grep ' /t ' /proc/mounts", change=change)
    assert text.splitlines()[0] == "1730 3"
    assert text.splitlines()[1].startswith("mine /t tmpfs ro,nosuid,relatime,size=1024k")


def test_a_bad_option_of_a_file_system_says_what_the_kernel_says(runner: Runner) -> None:
    def change(config: Config) -> None:
        config["mounts"].append({"destination": "/t", "type": "tmpfs", "options": ["size=many"]})

    runner.bundle(change=change)
    with pytest.raises(Failed, match="Bad value for 'size'"):
        runner.create()


def test_without_pivot_root_it_works_too(runner: Runner) -> None:
    runner.bundle("sh", "-c", "ls / | head -3; cat /proc/1/comm; cat /proc/mounts | wc -l")
    record = runner.create(no_pivot=True)
    runner.start(record)
    assert runner.text().split()[:4] == ["bin", "dev", "etc", "sh"]


def test_the_cgroup_mount_shows_the_containers_groups_alone(runner: Runner) -> None:
    text = runner.run("sh", "-c", "cat /sys/fs/cgroup/memory/cgroup.procs; ls /sys/fs/cgroup")
    assert text.split()[0] == "1"
    assert "memory" in text.split()


@pytest.mark.parametrize("own", [True, False])
def test_the_session_key_ring_is_the_containers_unless_told_otherwise(
    runner: Runner, *, own: bool
) -> None:
    def change(config: Config) -> None:
        config["linux"]["maskedPaths"] = []

    runner.bundle("cat", "/proc/keys", change=change)
    name = f"{runner.name()}-{own}"
    runner.names.append(name)
    record = runner.create(name, no_new_keyring=not own)
    runner.start(record)
    assert (f"_ses.{record['id']}" in runner.text()) is own
