"""What podman asks of a container's walls and limits, seen from within."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .podman import Podman

CAP_CHOWN = 1 << 0
CAP_NET_RAW = 1 << 13


def effective(text: str) -> int:
    """The effective set in a /proc/PID/status."""
    return next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapEff"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--uidmap", "0:100000:1000"], ["0", "100000", "1000"]),
        (["--userns", "auto:size=1234"], ["0", "200000", "1234"]),
        (["--userns", "host"], ["0", "0", "4294967295"]),
    ],
)
def test_a_user_namespace_has_the_maps_that_were_asked_for(
    podman: Podman, options: list[str], line: list[str]
) -> None:
    assert podman.shows("cat /proc/self/uid_map", *options).split() == line


def test_a_user_namespace_owns_its_files_and_does_its_work(podman: Podman) -> None:
    script = "touch /file && stat -c '%u' /file /bin/busybox && sleep 0 && id -u"
    assert podman.shows(script, "--uidmap", "0:100000:1000").split() == ["0", "0", "0"]


def test_exec_and_pause_work_in_a_user_namespace(podman: Podman) -> None:
    name = podman.start(options=["--userns", "auto"])
    assert podman.says("exec", name, "id", "-u") == "0"
    podman("pause", name)
    podman("unpause", name)


def test_a_pod_shares_a_user_namespace(podman: Podman) -> None:
    podman("pod", "create", "--name", "pod", "--userns", "auto")
    podman.start(options=["--pod", "pod", "--name", "one"])
    assert podman.says("exec", "one", "cat", "/proc/self/uid_map").split()[1] != "0"


def test_capabilities_are_dropped_and_added(podman: Podman) -> None:
    script = "cat /proc/self/status"
    assert effective(podman.shows(script, "--cap-drop", "all")) == 0
    assert effective(podman.shows(script, "--cap-drop", "all", "--cap-add", "chown")) == CAP_CHOWN
    assert effective(podman.shows(script, "--cap-add", "net_raw")) & CAP_NET_RAW
    assert effective(podman.shows(script, "--user", "1000")) == 0


def test_a_privileged_container_has_every_device(podman: Podman) -> None:
    assert podman.shows("test -c /dev/kmsg && echo yes", "--privileged") == "yes"


def test_no_new_privileges_is_set(podman: Podman) -> None:
    status = podman.shows("cat /proc/self/status", "--security-opt", "no-new-privileges")
    assert "NoNewPrivs:\t1" in status


def test_limits_are_what_was_asked_for(podman: Podman) -> None:
    options = ["--pids-limit", "20", "--memory", "32m", "--cpus", "0.5", "--cpuset-cpus", "0"]
    files = ["pids/pids.max", "memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us"]
    files += ["cpuset/cpuset.cpus"]
    script = "cd /sys/fs/cgroup && cat " + " ".join(files)
    assert podman.shows(script, *options).split() == ["20", "33554432", "50000", "0"]


def test_more_processes_than_allowed_are_refused(podman: Podman) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"
    assert podman.run("sh", "-c", script, options=["--pids-limit", "5"]).returncode != 0


def test_more_memory_than_allowed_kills_who_took_it(podman: Podman) -> None:
    script = "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo $?"
    assert podman.shows(script, "--memory", "8m") == "137"


def test_update_changes_the_limits_of_a_running_container(podman: Podman) -> None:
    name = podman.start(options=["--memory", "32m"])
    podman("update", "--memory", "64m", "--cpus", "0.3", "--cpu-shares", "200", name)
    files = ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "cpu/cpu.shares"]
    paths = [f"/sys/fs/cgroup/{file}" for file in files]
    assert podman.says("exec", name, "cat", *paths).split() == ["67108864", "30000", "200"]


def test_a_read_only_root_has_writable_places_that_were_asked_for(podman: Podman) -> None:
    options = ["--read-only", "--tmpfs", "/w"]
    script = "touch /file 2>&1; touch /w/file && echo written"
    assert podman.shows(script, *options).splitlines()[1:] == ["written"]


def test_volumes_are_mounted_as_asked(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    assert podman.shows("cat /m/file", "-v", f"{tmp_path}:/m:ro") == "from outside"
    done = podman.run("touch", "/m/new", options=["-v", f"{tmp_path}:/m:ro"])
    assert "Read-only file system" in done.stderr
    podman.shows("echo from inside >/m/new", "-v", f"{tmp_path}:/m")
    assert (tmp_path / "new").read_text() == "from inside\n"


def test_a_named_volume_outlives_its_container(podman: Podman) -> None:
    podman.shows("echo kept >/m/file", "-v", "shelf:/m")
    assert podman.shows("cat /m/file", "-v", "shelf:/m") == "kept"
    podman("volume", "rm", "shelf")


@pytest.mark.parametrize(
    ("options", "script", "shown"),
    [
        (["--device", "/dev/null:/dev/nothing"], "test -c /dev/nothing && echo yes", "yes"),
        (["--shm-size", "1m"], "df /dev/shm | awk 'END {print $2}'", "1024"),
        (["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward", "1"),
        (["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj", "500"),
        (["--umask", "0077"], "umask", "0077"),
        (["--hostname", "here"], "hostname", "here"),
        (["--workdir", "/tmp"], "pwd", "/tmp"),
        (["--init"], "cat /proc/1/cmdline | tr '\\0' ' ' | cut -d ' ' -f 1", "/run/podman-init"),
        (["--pid", "host"], "test $$ != 1 && echo yes", "yes"),
        (
            ["--cgroupns", "private"],
            "grep -v ':/$' /proc/self/cgroup || echo at the root",
            "at the root",
        ),
        (["--user", "12:34", "--group-add", "56"], "id -G", "34 56"),
    ],
)
def test_options_do_what_they_say(
    podman: Podman, options: list[str], script: str, shown: str
) -> None:
    assert podman.shows(script, *options) == shown


def test_paths_are_masked_and_read_only(podman: Podman) -> None:
    script = "wc -c </proc/keys; ls -A /proc/acpi; ls -A /sys/firmware"
    assert podman.shows(script) == "0"
    done = podman.run("sh", "-c", "echo 1 >/proc/sys/kernel/domainname")
    assert "Read-only file system" in done.stderr


def test_the_default_filter_of_system_calls_is_set(podman: Podman) -> None:
    script = "grep Seccomp: /proc/self/status"
    assert podman.shows(script).split() == ["Seccomp:", "2"]
    unfiltered = podman.shows(script, "--security-opt", "seccomp=unconfined")
    assert unfiltered.split() == ["Seccomp:", "0"]


def test_a_filter_of_ones_own_refuses_what_it_names(podman: Podman) -> None:
    profile = podman.folder / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    done = podman.run("mkdir", "/new", options=["--security-opt", f"seccomp={profile}"])
    profile.unlink()
    assert (done.returncode, done.stderr) == (
        1,
        "mkdir: can't create directory '/new': Function not implemented\n",
    )


def test_what_podman_asked_for_is_what_the_runtime_was_told(podman: Podman) -> None:
    name = podman.start(options=["--memory", "32m"])
    config = json.loads(Path(podman.inspect(name, "{{.OCIConfigPath}}")).read_text())
    assert config["linux"]["resources"]["memory"]["limit"] == 32 << 20
