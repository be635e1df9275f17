"""The systemd driver where systemd is process 1 of the machine and has every controller."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.bundles import make_bundle, remove, run_detached
from tests.vm.container import eventually
from tests.vm.machines import Machine, Pair

BUNDLE = "/srv/unit"
UNIT = "runc-c1.scope"
MIB = 1 << 20
SLEEP = ["sleep", "10000"]
DRIVER = "--systemd-cgroup"

USER, UID = "vagrant", 1000
HOME = f"/home/{USER}"
AS_USER = (
    f"runuser -u {USER} -- env -u DBUS_SESSION_BUS_ADDRESS"
    f" HOME={HOME} XDG_RUNTIME_DIR=/run/user/{UID} sh -c"
)


@pytest.fixture
def machine(pair: Pair) -> Iterator[Machine]:
    """The one where the containers of a test are, and no longer are afterwards."""
    yield pair.host1
    remove(pair.host1, BUNDLE)


def show(machine: Machine, *names: str) -> dict[str, str]:
    """Return properties of the container's unit."""
    words = ["systemctl", "show", f"--property={','.join(names)}", "--", UNIT]
    lines = machine.run(words).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def read(machine: Machine, name: str) -> str:
    """Return a file of the unit's control group."""
    return machine.run(["cat", f"/sys/fs/cgroup/system.slice/{UNIT}/{name}"]).stdout.strip()


def test_a_container_is_a_unit_and_its_limits_are_systemds_and_the_kernels(
    machine: Machine,
) -> None:
    resources: dict[str, Any] = {
        "memory": {"limit": 64 * MIB},
        "cpu": {"shares": 512, "quota": 25_500, "period": 50_000, "cpus": "0"},
        "pids": {"limit": 50},
    }
    make_bundle(machine, BUNDLE, SLEEP, lambda config: config["linux"].update(resources=resources))
    run_detached(machine, "--bundle", BUNDLE, "c1", options=DRIVER)
    names = ("ActiveState", "Slice", "Delegate", "MemoryMax", "CPUWeight", "CPUQuotaPerSecUSec")
    assert show(machine, *names, "TasksMax", "AllowedCPUs") == {
        "ActiveState": "active",
        "Slice": "system.slice",
        "Delegate": "yes",
        "MemoryMax": str(64 * MIB),
        "CPUWeight": "20",
        "CPUQuotaPerSecUSec": "510ms",
        "TasksMax": "50",
        "AllowedCPUs": "0",
    }
    assert read(machine, "memory.max") == str(64 * MIB)
    assert read(machine, "cpu.weight") == "20"
    assert read(machine, "cpuset.cpus") == "0"

    options = ["--memory", "96M", "--pids-limit", "20", "--cpu-share", "1024"]
    machine.run(["migrate", DRIVER, "update", *options, "c1"])
    machine.run(["systemctl", "daemon-reload"])
    assert show(machine, "MemoryMax", "TasksMax", "CPUWeight") == {
        "MemoryMax": str(96 * MIB),
        "TasksMax": "20",
        "CPUWeight": "39",
    }
    assert read(machine, "memory.max") == str(96 * MIB)
    assert read(machine, "pids.max") == "20"
    events = machine.run(["migrate", DRIVER, "events", "--stats", "c1"]).stdout
    told = json.loads(events)["data"]
    assert told["memory"]["usage"]["limit"] == 96 * MIB
    assert told["pids"]["limit"] == 20

    machine.run(["migrate", DRIVER, "delete", "--force", "c1"])
    eventually(lambda: show(machine, "ActiveState")["ActiveState"] == "inactive", "it is gone")


def test_devices_stay_closed_over_a_reload_of_systemd(machine: Machine) -> None:
    kmsg = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}

    def change(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [kmsg]
        config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}

    make_bundle(machine, BUNDLE, SLEEP, change)
    run_detached(machine, "--bundle", BUNDLE, "c1", options=DRIVER)
    tried = ["migrate", "exec", "c1", "sh", "-c", "head -c 1 </dev/null && echo tests >/dev/kmsg"]
    for _ in range(2):
        done = machine.run(tried, check=False)
        assert done.returncode != 0
        assert "Operation not permitted" in done.stderr
        machine.run(["systemctl", "daemon-reload"])


def test_a_unit_that_systemd_stops_is_a_stopped_container(machine: Machine) -> None:
    make_bundle(machine, BUNDLE, SLEEP)
    run_detached(machine, "--bundle", BUNDLE, "c1", options=DRIVER)
    machine.run(["systemctl", "kill", "--signal=KILL", UNIT])

    def status() -> str:
        return str(json.loads(machine.run(["migrate", "state", "c1"]).stdout)["status"])

    eventually(lambda: status() == "stopped", "it is stopped")


@pytest.fixture
def user(machine: Machine) -> Iterator[Machine]:
    """The machine, with a session of a user without privileges and a bundle of the user's."""
    machine.run(["loginctl", "enable-linger", USER])
    bus = f"/run/user/{UID}/bus"
    eventually(lambda: machine.run(["test", "-S", bus], check=False).returncode == 0, "the bus")
    make_bundle(machine, f"{HOME}/bundle", SLEEP, rootless, options="--rootless")
    machine.run(["chown", "-R", f"{UID}:{UID}", f"{HOME}/bundle"])
    yield machine
    machine.run(f"{AS_USER} 'migrate {DRIVER} delete --force c1; rm -rf {HOME}/bundle'")
    machine.run(["loginctl", "disable-linger", USER])
    gone = ["test", "!", "-e", f"/run/user/{UID}"]
    eventually(lambda: machine.run(gone, check=False).returncode == 0, "the session ends")


def rootless(config: dict[str, Any]) -> None:
    """Make root of the user, and let it have limits: systemd delegates memory and pids."""
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": UID, "size": 1}]
    config["linux"]["resources"] = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 30}}


def test_a_users_container_is_limited_in_what_systemd_delegates(user: Machine) -> None:
    def migrate(line: str) -> str:
        return user.run(f"{AS_USER} 'migrate {DRIVER} {line}'").stdout

    migrate(f"run --detach --bundle {HOME}/bundle c1 </dev/null >/dev/null 2>&1")
    state = json.loads(migrate("state c1"))
    assert state["status"] == "running"
    place = user.run(["cat", f"/proc/{state['pid']}/cgroup"]).stdout.strip().split("::")[1]
    assert place.startswith(f"/user.slice/user-{UID}.slice/user@{UID}.service/")
    owner = user.run(["stat", "-c", "%U", f"/proc/{state['pid']}"]).stdout
    assert owner == f"{USER}\n"
    folder = f"/sys/fs/cgroup{place}"
    assert user.run(["cat", f"{folder}/memory.max"]).stdout.strip() == str(64 * MIB)
    migrate("update --pids-limit 25 c1")
    assert user.run(["cat", f"{folder}/pids.max"]).stdout.strip() == "25"
    assert "sleep" in migrate("ps c1")
    assert migrate("exec c1 id -u").strip() == "0"
    migrate("pause c1")
    assert json.loads(migrate("state c1"))["status"] == "paused"
    migrate("resume c1")
