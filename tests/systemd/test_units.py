"""Containers as units of systemd: where they are, what they may, how they end."""

from __future__ import annotations

import json
import os

import pytest

from tests.support.hosts import wait_until
from tests.systemd.conftest import Change, Runtime

pytestmark = pytest.mark.hosts

MIB = 1 << 20


def path_is(text: str) -> Change:
    return lambda config: config["linux"].update(cgroupsPath=text)


def limits(**resources: object) -> Change:
    return lambda config: config["linux"].setdefault("resources", {}).update(resources)


def test_a_container_is_a_delegated_scope_from_create_to_delete(runtime: Runtime) -> None:
    runtime("create", "--bundle", runtime.bundle(), "c1")
    shown = runtime.machine.show("runc-c1.scope", "ActiveState", "Slice", "Delegate", "Transient")
    assert shown == {
        "ActiveState": "active",
        "Slice": "system.slice",
        "Delegate": "yes",
        "Transient": "yes",
    }
    runtime("start", "c1")
    pid = runtime.state("c1")["pid"]
    places = runtime.groups(pid)
    trees = [""] if runtime.is_v2 else places
    assert {places[tree] for tree in trees} == {"/system.slice/runc-c1.scope"}
    runtime("delete", "--force", "c1")
    assert "runc-c1.scope" not in runtime.machine.units()


def test_what_is_executed_paused_listed_and_killed_is_what_is_in_the_unit(runtime: Runtime) -> None:
    runtime("run", "--detach", "--bundle", runtime.bundle(), "c1")
    assert "/system.slice/runc-c1.scope" in runtime("exec", "c1", "cat", "/proc/self/cgroup")
    runtime("exec", "--detach", "c1", "sleep", "20000")
    assert len(json.loads(runtime("ps", "--format=json", "c1"))) == 2
    event = json.loads(runtime("events", "--stats", "c1"))
    assert event["data"]["cpu"]["usage"]["total"] > 0
    runtime("pause", "c1")
    assert " paused " in runtime("list")
    runtime("resume", "c1")
    assert runtime.state("c1")["status"] == "running"
    runtime("kill", "--all", "c1", "KILL")
    wait_until(lambda: runtime.state("c1")["status"] == "stopped", "it stops")
    runtime("delete", "c1")
    assert "runc-c1.scope" not in runtime.machine.units()


def test_the_cgroups_path_names_slice_prefix_and_unit(runtime: Runtime) -> None:
    bundle = runtime.bundle(path_is("machine-libpod.slice:libpod:c1"))
    runtime("run", "--detach", "--bundle", bundle, "c1")
    place = runtime.groups(runtime.state("c1")["pid"])[""]
    assert place == "/machine.slice/machine-libpod.slice/libpod-c1.scope"
    assert runtime.machine.show("libpod-c1.scope", "Slice") == {"Slice": "machine-libpod.slice"}


def test_a_name_that_ends_in_slice_is_a_slice_without_a_prefix(hybrid: Runtime) -> None:
    bundle = hybrid.bundle(path_is("system.slice:ignored:pods-c1.slice"))
    hybrid("run", "--detach", "--bundle", bundle, "c1")
    assert hybrid.groups(hybrid.state("c1")["pid"])["memory"] == "/pods.slice/pods-c1.slice"
    hybrid("delete", "--force", "c1")
    assert hybrid.machine.show("pods-c1.slice", "ActiveState") == {"ActiveState": "inactive"}


@pytest.mark.parametrize(
    "path", ["/a/b", "a.slice:b", "a:b:c", "a--b.slice:b:c", "-.slice:x:/../y", "a.slice:b:c:d"]
)
def test_a_path_that_is_no_place_among_units_is_refused(hybrid: Runtime, path: str) -> None:
    said = hybrid("create", "--bundle", hybrid.bundle(path_is(path)), "c1", check=False)
    assert said.startswith("migrate: ")
    assert said.count("\n") == 1
    assert hybrid("list", "-q") == ""


def test_limits_are_the_units_and_the_kernels(hybrid: Runtime) -> None:
    bundle = hybrid.bundle(
        limits(
            memory={"limit": 64 * MIB},
            cpu={"shares": 512, "quota": 25_500, "period": 50_000, "cpus": "0"},
            pids={"limit": 50},
        )
    )
    hybrid("run", "--detach", "--bundle", bundle, "c1")
    shown = hybrid.machine.show(
        "runc-c1.scope", "MemoryMax", "CPUShares", "CPUQuotaPerSecUSec", "TasksMax", "AllowedCPUs"
    )
    assert shown == {
        "MemoryMax": str(64 * MIB),
        "CPUShares": "512",
        "CPUQuotaPerSecUSec": "510ms",
        "TasksMax": "50",
        "AllowedCPUs": "0",
    }
    assert hybrid.read("c1", "memory", "memory.limit_in_bytes") == str(64 * MIB)
    assert hybrid.read("c1", "cpu", "cpu.cfs_quota_us") == "25500"
    assert hybrid.read("c1", "cpuset", "cpuset.cpus") == "0"


def test_limits_that_were_changed_outlast_a_reload_of_systemd(hybrid: Runtime) -> None:
    hybrid("run", "--detach", "--bundle", hybrid.bundle(), "c1")
    hybrid("update", "--memory", "32M", "--pids-limit", "20", "--cpu-share", "100", "c1")
    hybrid.machine.enter(["systemctl", "daemon-reload"])
    shown = hybrid.machine.show("runc-c1.scope", "MemoryMax", "TasksMax", "CPUShares")
    assert shown == {"MemoryMax": str(32 * MIB), "TasksMax": "20", "CPUShares": "100"}
    assert hybrid.read("c1", "memory", "memory.limit_in_bytes") == str(32 * MIB)
    assert hybrid.read("c1", "pids", "pids.max") == "20"


def test_a_container_of_one_process_starts(hybrid: Runtime) -> None:
    bundle = hybrid.bundle(limits(pids={"limit": 1}))
    hybrid("run", "--detach", "--bundle", bundle, "c1")
    assert hybrid.read("c1", "pids", "pids.max") == "1"
    assert hybrid.machine.show("runc-c1.scope", "TasksMax") == {"TasksMax": "1"}


def test_devices_are_closed_also_after_a_reload_of_systemd(runtime: Runtime) -> None:
    closed = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1}]
    runtime("run", "--detach", "--bundle", runtime.bundle(limits(devices=closed)), "c1")
    rootfs = runtime.machine.host.folder("/srv/bundle/rootfs")
    for name, number in (("open", os.makedev(1, 200)), ("closed", os.makedev(10, 223))):
        os.mknod(rootfs / "tmp" / name, 0o020666, number)
    for _ in range(2):
        said = runtime("exec", "c1", "sh", "-c", ": </tmp/open", check=False)
        assert "No such device" in said  # nobody has that number: it came past the rules
        said = runtime("exec", "c1", "sh", "-c", ": </tmp/closed", check=False)
        assert "Operation not permitted" in said
        runtime.machine.enter(["systemctl", "daemon-reload"])
    assert runtime.machine.show("runc-c1.scope", "DevicePolicy") == {"DevicePolicy": "strict"}


def test_annotations_set_only_what_concerns_the_unit_alone(hybrid: Runtime) -> None:
    name = "org.systemd.property."
    kind = {f"{name}TimeoutStopSec": "uint64 7", f"{name}CollectMode": "'inactive-or-failed'"}
    bundle = hybrid.bundle(lambda config: config.update(annotations=kind))
    hybrid("run", "--detach", "--bundle", bundle, "c1")
    shown = hybrid.machine.show("runc-c1.scope", "TimeoutStopUSec", "CollectMode")
    assert shown == {"TimeoutStopUSec": "7s", "CollectMode": "inactive-or-failed"}
    hybrid("delete", "--force", "c1")
    hostile = {f"{name}Conflicts": "['dbus.service']"}
    bundle = hybrid.bundle(lambda config: config.update(annotations=hostile))
    assert f"{name}Conflicts" in hybrid("create", "--bundle", bundle, "c2", check=False)
    assert hybrid.machine.show("dbus.service", "ActiveState") == {"ActiveState": "active"}


def test_a_create_that_fails_leaves_no_unit(runtime: Runtime) -> None:
    bundle = runtime.bundle(lambda config: config["process"].update(args=["/nowhere"]))
    assert "/nowhere" in runtime("run", "--detach", "--bundle", bundle, "c1", check=False)
    assert "runc-c1.scope" not in runtime.machine.units()
    assert runtime("list", "-q") == ""


def test_a_unit_that_is_another_containers_is_refused_and_left_alone(runtime: Runtime) -> None:
    bundle = runtime.bundle(path_is("system.slice:x:c1"))
    runtime("run", "--detach", "--bundle", bundle, "c1")
    said = runtime("run", "--detach", "--bundle", bundle, "c2", check=False)
    assert "not empty" in said or "x-c1.scope" in said
    assert runtime.state("c1")["status"] == "running"
    assert runtime("list", "-q") == "c1\n"


def test_of_several_creates_into_one_unit_one_wins_and_none_hurts_it(runtime: Runtime) -> None:
    bundle = runtime.bundle(path_is("system.slice:x:c1"))
    script = "for i in 1 2 3 4; do migrate --systemd-cgroup run -d -b $0 c$i & done; wait"
    runtime.machine.run(["sh", "-c", script, bundle], check=False)
    made = runtime("list", "-q").split()
    assert len(made) == 1
    assert runtime.state(made[0])["status"] == "running"


def test_a_create_that_was_killed_is_cleared_away_with_its_unit(runtime: Runtime) -> None:
    # A hook that waits holds the create between its first record and its last.
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo $$ >/run/held; exec sleep 1000"]}
    bundle = runtime.bundle(lambda config: config.update(hooks={"createRuntime": [hook]}))
    script = (
        "migrate --systemd-cgroup create -b $0 c1 & while [ ! -s /run/held ]; do sleep 0.01; done;"
        "kill -KILL $! $(cat /run/held); rm /run/held"
    )
    runtime.machine.run(["sh", "-c", script, bundle], check=False)
    runtime("delete", "--force", "c1")
    assert "runc-c1.scope" not in runtime.machine.units()
    assert runtime("list", "-q") == ""


def test_a_forged_record_stops_no_unit_of_the_host(hybrid: Runtime) -> None:
    machine = hybrid.machine
    machine.enter(["systemd-run", "--scope", "--unit=victim", "--", "sh", "-c", "sleep 1000 &"])
    hybrid("run", "--detach", "--bundle", hybrid.bundle(), "c1")
    forge = 's/"unit":"[^"]*"/"unit":"victim.scope"/'
    machine.enter(["sed", "-i", forge, "/run/migrate/c1/state.json"])
    hybrid("delete", "--force", "c1")
    assert machine.show("victim.scope", "ActiveState") == {"ActiveState": "active"}
    machine.enter(["systemctl", "stop", "victim.scope"])


def test_a_container_of_the_other_driver_needs_no_systemd(runtime: Runtime) -> None:
    bundle = runtime.bundle(path_is("/plain-c1"))
    migrate = ["migrate", "run", "--detach", "--bundle", bundle, "c1"]
    runtime.machine.run(migrate)
    assert runtime.state("c1")["status"] == "running"
    runtime("delete", "--force", "c1")


def test_without_systemd_the_driver_says_so_in_one_line(runtime: Runtime) -> None:
    host = runtime.machine.host
    bundle = runtime.bundle()
    done = host.run(["migrate", "--systemd-cgroup", "create", "-b", bundle, "c1"], check=False)
    assert done.returncode != 0
    assert "system_bus_socket cannot be reached" in done.stderr
    assert done.stderr.count("\n") == 1
    assert host.run(["migrate", "list", "-q"]).stdout == ""


def test_an_unknown_manager_is_refused(runtime: Runtime) -> None:
    words = ["migrate", "--cgroup-manager=other", "create", "-b", runtime.bundle(), "c1"]
    said = runtime.machine.run(words, check=False).stderr
    assert "other" in said
    assert said.count("\n") == 1
