"""cgroup v2 with every controller, which the machine that runs the tests may not have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vm.bundles import make_bundle, remove, run_detached
from tests.vm.machines import SOURCES, Machine, Pair, together

BUNDLE = "/srv/limited"
MIB = 1 << 20
SLEEP = ["sleep", "10000"]
KMSG = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}


@pytest.fixture
def machine(pair: Pair) -> Iterator[Machine]:
    """The one where the containers of a test are, and no longer are afterwards."""
    yield pair.host1
    remove(pair.host1, BUNDLE)


def group_of(machine: Machine, container_id: str) -> str:
    """Return the folder of a container's control group."""
    record = machine.run(["cat", f"/run/migrate/{container_id}/state.json"]).stdout
    return str(json.loads(record)["cgroup"][""])


def read(machine: Machine, container_id: str, *names: str) -> list[str]:
    """Return what files of a container's control group hold."""
    folder = group_of(machine, container_id)
    return [machine.run(["cat", f"{folder}/{name}"]).stdout.strip() for name in names]


def stats(machine: Machine, container_id: str) -> dict[str, Any]:
    """Return what `events --stats` says."""
    answer = json.loads(machine.run(["migrate", "events", "--stats", container_id]).stdout)
    return answer["data"]  # type: ignore[no-any-return]


def test_every_resource_is_set_updated_and_read_back(machine: Machine) -> None:
    resources = {
        "cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB, "reservation": 32 * MIB},
        "pids": {"limit": 50},
        "blockIO": {"weight": 500},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        "unified": {"memory.high": str(60 * MIB)},
    }
    make_bundle(machine, BUNDLE, SLEEP, lambda config: config["linux"].update(resources=resources))
    run_detached(machine, "--bundle", BUNDLE, "c1")
    names = ["cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems", "memory.max", "memory.low"]
    names += ["memory.high", "memory.swap.max", "pids.max", "hugetlb.2MB.max"]
    values = ["20", "20000 50000", "0", "0", str(64 * MIB), str(32 * MIB)]
    values += [str(60 * MIB), "0", "50", str(4 * MIB)]
    assert read(machine, "c1", *names) == values

    options = ["--cpu-share", "1024", "--cpu-quota", "30000", "--memory", "96M"]
    options += ["--memory-swap", "128M", "--pids-limit", "60"]
    machine.run(["migrate", "update", *options, "c1"])
    names = ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max"]
    values = ["39", "30000 50000", str(96 * MIB), str(32 * MIB), "60"]
    assert read(machine, "c1", *names) == values

    told = stats(machine, "c1")
    assert told["memory"]["usage"]["limit"] == 96 * MIB
    assert 0 < told["memory"]["usage"]["usage"] < 96 * MIB
    assert told["pids"] == {"current": 1, "limit": 60}
    assert told["cpu"]["usage"]["total"] > 0


def test_the_kernel_holds_a_container_to_its_limits(machine: Machine) -> None:
    resources = {"pids": {"limit": 3}, "memory": {"limit": 16 * MIB, "swap": 16 * MIB}}
    make_bundle(machine, BUNDLE, SLEEP, lambda config: config["linux"].update(resources=resources))
    run_detached(machine, "--bundle", BUNDLE, "c1")
    fork = "sleep 2 & sleep 2 & sleep 2 & sleep 2 & wait"
    crowd = machine.run(["migrate", "exec", "c1", "sh", "-c", fork], check=False)
    assert "can't fork" in crowd.stderr
    machine.run(["migrate", "update", "--pids-limit", "20", "c1"])
    eater = ["payload", "--memory", "64", "--status", "/status"]
    killed = machine.run(["migrate", "exec", "c1", *eater], check=False)
    assert killed.returncode == 137
    (events,) = read(machine, "c1", "memory.events")
    assert dict(line.split() for line in events.splitlines())["oom_kill"] != "0"


@pytest.mark.parametrize("is_allowed", [False, True])
def test_a_program_in_the_kernel_decides_on_devices(machine: Machine, *, is_allowed: bool) -> None:
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    if is_allowed:
        rules.append({"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"})

    def change(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [KMSG]
        config["linux"]["resources"] = {"devices": rules}

    make_bundle(machine, BUNDLE, SLEEP, change)
    run_detached(machine, "--bundle", BUNDLE, "c1")
    tried = ["migrate", "exec", "c1", "sh", "-c", "head -c 1 </dev/null && echo tests >/dev/kmsg"]
    done = machine.run(tried, check=False)
    assert (done.returncode == 0) is is_allowed
    assert ("Operation not permitted" in done.stderr) is not is_allowed
    # An update of something else leaves the program where it is.
    machine.run(["migrate", "update", "--pids-limit", "30", "c1"])
    again = machine.run(tried, check=False)
    assert (again.returncode == 0) is is_allowed


def test_the_conformance_tests_of_control_groups_pass_there(pair: Pair) -> None:
    """Each on a machine of its own, at once."""
    files = {"host1": "tests/oci/test_cgroups.py", "host2": "tests/oci/test_update.py"}
    said: dict[str, str] = {}

    def run(name: str, file: str) -> None:
        # /tmp is a tmpfs without devices there; and the tests' own groups offer what their
        # parent does.
        command = (
            "for each in $(cat /sys/fs/cgroup/cgroup.controllers); do"
            " echo +$each >/sys/fs/cgroup/cgroup.subtree_control; done;"
            f" cd {SOURCES} && rm -rf /var/tmp/tests && .venv/bin/python -m pytest -q"
            f" -p no:cacheprovider --basetemp=/var/tmp/tests {file}; status=$?;"
            " rm -rf /var/tmp/tests; exit $status"
        )
        done = pair.machines[name].run(command, check=False, timeout_seconds=400)
        said[name] = f"exit status {done.returncode}\n{done.stdout[-4000:]}{done.stderr}"

    together([lambda n=n, f=f: run(n, f) for n, f in files.items()])  # type: ignore[misc]
    for text in said.values():
        assert text.startswith("exit status 0\n"), text
        assert " passed" in text
        assert "SKIPPED" not in text, text
