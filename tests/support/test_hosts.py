"""Hosts are what tests of two machines stand on, so they are tested themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cgroups import hierarchies
from tests.support.folders import CHECKOUT, PRIVATE_FOLDERS, SSH_FOLDER
from tests.support.hosts import Site, wait_until
from tests.support.processes import CommandError


def test_ssh_goes_from_host1_to_host2_by_name_and_known_key(hosts: Site) -> None:
    assert hosts.host1.run(["ssh", "host2", "hostname"]).stdout == "host2\n"
    assert hosts.host2.run(["ssh", "host1", "hostname"]).stdout == "host1\n"


def test_ssh_refuses_a_host_whose_key_is_not_known(hosts: Site) -> None:
    refused = hosts.host1.run(
        ["ssh", "-o", "UserKnownHostsFile=/dev/null", "host2", "hostname"], check=False
    )
    assert refused.returncode != 0
    assert "Host key verification failed" in refused.stderr


def test_the_command_is_found_over_ssh(hosts: Site) -> None:
    where = hosts.host1.run(["ssh", "host2", "command -v migrate"]).stdout.strip()
    assert where == f"{CHECKOUT}/.venv/bin/migrate"


def test_a_host_sees_no_process_mount_group_or_file_of_another(hosts: Site) -> None:
    with hosts.host1.popen(["sleep", "60"]) as sleeper:
        assert str(sleeper.inner_pid) in hosts.host1.run(["ls", "/proc"]).stdout.split()
        listed = hosts.host2.run(["ps", "-eo", "args"]).stdout
        assert "sleep 60" not in listed
    for folder in ("/run", "/srv", "/var/lib/migrate", SSH_FOLDER, "/dev/shm"):
        hosts.host1.run(["touch", f"{folder}/mark"])
        assert hosts.host2.run(["ls", folder]).stdout.split().count("mark") == 0
        hosts.host1.run(["rm", f"{folder}/mark"])
    group = "/sys/fs/cgroup/" + ("freezer/" if len(hierarchies()) > 1 else "") + "mark"
    hosts.host1.run(["mkdir", group])
    assert hosts.host2.run(["test", "-e", group], check=False).returncode == 1
    hosts.host1.run(["rmdir", group])


def test_nothing_in_a_host_or_a_test_can_change_the_machine_s_files(hosts: Site) -> None:
    for path in ("/etc/hostname", "/usr/bin/mark", "/root/mark", "/var/lib/mark"):
        for host in (hosts.host1, hosts.client):
            refused = host.run(["touch", path], check=False)
            assert "Read-only file system" in refused.stderr, (host.name, path)
        with pytest.raises(OSError, match="Read-only file system"):
            Path(path).touch()


@pytest.mark.root
def test_the_interpreter_can_be_spoilt_by_an_attack_that_is_not_held_off() -> None:
    assert os.access(os.path.realpath("/usr/bin/python3"), os.W_OK)
    assert not os.access("/usr/bin/env", os.W_OK)


def test_a_process_of_a_host_is_at_the_root_of_the_host_s_groups(hosts: Site) -> None:
    lines = hosts.host1.run(["cat", "/proc/self/cgroup"]).stdout.splitlines()
    assert {line.split(":", 2)[2] for line in lines} <= {"/", "/init"}


def test_orphans_of_a_host_are_reaped_by_its_first_process(hosts: Site) -> None:
    hosts.host1.run(["sh", "-c", "sleep 0.05 & exit 0"])
    wait_until(
        lambda: " Z" not in hosts.host1.run(["ps", "-eo", "args,stat"]).stdout, "no zombie is left"
    )


def test_a_pulled_cable_cuts_the_host_off_until_it_is_back(hosts: Site) -> None:
    probe = ["ssh", "-o", "ConnectTimeout=1", "host2", "true"]
    hosts.host2.cut()
    try:
        assert hosts.host1.run(probe, check=False).returncode == 255
    finally:
        hosts.host2.mend()
    assert hosts.host1.run(probe).returncode == 0


def test_a_container_s_network_is_reached_from_the_client(hosts: Site) -> None:
    namespace = hosts.host1.add_network("probe", "10.77.0.60")
    try:
        server = hosts.host1.popen(
            [
                "nsenter",
                f"--net={namespace}",
                "busybox",
                "nc",
                "-l",
                "-p",
                "7",
                "-e",
                "/bin/hostname",
            ]
        )
        with server:
            answer = wait_until(
                lambda: hosts.client.run(["busybox", "nc", "10.77.0.60", "7"], check=False).stdout,
                "the server answers",
            )
        assert answer == "host1\n"
    finally:
        hosts.host1.remove_network("probe")


def test_the_output_of_a_failed_command_is_in_its_error(hosts: Site) -> None:
    with pytest.raises(CommandError, match="exit status 3\\nout\\nerr"):
        hosts.host1.run(["sh", "-c", "echo out; echo err >&2; exit 3"])


@pytest.mark.hosts
def test_two_sites_at_once_do_not_meet() -> None:
    with Site(["alone"]) as one, Site(["alone"]) as other:
        one.alone.run(["touch", "/srv/mark"])
        assert other.alone.run(["ls", "/srv"]).stdout == ""
        assert other.client.run(["ssh", "alone", "hostname"]).stdout == "alone\n"


@pytest.mark.hosts
def test_hosts_with_cgroup_version_2_alone_mount_nothing_else() -> None:
    with Site(["unified"], layout="v2") as site:
        mounted = site.unified.run(["cat", "/proc/mounts"]).stdout
        assert " cgroup2 " in mounted
        assert " cgroup " not in mounted
        site.unified.run(["mkdir", "/sys/fs/cgroup/mark"])
        site.unified.run(["rmdir", "/sys/fs/cgroup/mark"])


FROZEN = """
import sys, time
from tests.support.hosts import Site
with Site(["frozen"]) as site:
    print(site.frozen.pid, flush=True)
    site.frozen.popen(["sh", "-c", '''
        for group in /sys/fs/cgroup/freezer /sys/fs/cgroup/unified /sys/fs/cgroup; do
            [ -e $group/cgroup.procs ] || continue
            mkdir -p $group/ice && echo $$ > $group/ice/cgroup.procs
            for file in freezer.state cgroup.freeze; do
                [ ! -e $group/ice/$file ] || FREEZE=$group/ice/$file
            done
        done
        case $FREEZE in *state) echo FROZEN >$FREEZE;; *) echo 1 >$FREEZE;; esac
        sleep 60'''])
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.hosts
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_site_with_a_frozen_process_goes_with_the_program_that_made_it(
    how: signal.Signals, tmp_path: Path
) -> None:
    with (tmp_path / "output").open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, "-c", FROZEN],
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)},
        )
    wait_until(lambda: "up" in (tmp_path / "output").read_text(), "the site is up")
    first = int((tmp_path / "output").read_text().split()[0])
    program.send_signal(how)
    try:
        program.wait(20)
    finally:
        program.kill()
        program.wait()
    wait_until(lambda: not Path(f"/proc/{first}").exists(), "its first process is gone")
    if how == signal.SIGINT:
        assert list(tmp_path.glob("migrate-site-*")) == []
    else:  # nobody could remove the groups it was in: the next to make some does
        with Site(["sweeper"]):
            pass


@pytest.mark.hosts
def test_mount_points_that_were_made_for_a_site_go_with_it() -> None:
    were_there = {path for path in PRIVATE_FOLDERS.values() if os.path.isdir(path)}
    with Site(["brief"]):
        assert all(os.path.isdir(path) for path in PRIVATE_FOLDERS.values())
    assert were_there <= {path for path in PRIVATE_FOLDERS.values() if os.path.isdir(path)}
