"""A root file system full of traps, and a configuration that asks for all there is.

What a rare field needs is loaded only where that field is there: so each of them has to be
there once, where a module or a library that is loaded too late would be the image's.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from tests.attacks.test_imports import assert_not_trapped, trapped
from tests.oci.driver import Bundle, Config, Runtime

__all__ = ["trapped"]

FILTER = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}
HOOK = {"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 20}


def limits(config: Config) -> None:
    config["linux"]["resources"] = {
        "memory": {"limit": 1 << 28},
        "pids": {"limit": 100},
        "cpu": {"shares": 512},
        "devices": [{"allow": False, "access": "rwm"}],
    }


def process(config: Config) -> None:
    config["process"] |= {
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "oomScoreAdj": 500,
        "noNewPrivileges": True,
        "user": {"uid": 1000, "gid": 1000, "umask": 63, "additionalGids": [5]},
        "cwd": "/made/for/it",
    }


def mounts(config: Config) -> None:
    config["linux"]["rootfsPropagation"] = "rslave"
    config["mounts"] += [
        {"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/m/a", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "ro"]},
        {"destination": "/m/b", "source": "/usr", "options": ["rbind", "rro", "rprivate"]},
    ]
    config["linux"]["devices"] = [
        {"path": "/dev/zero2", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 7}
    ]


def namespaces(config: Config) -> None:
    config["hostname"], config["domainname"] = "h", "d"
    config["linux"]["namespaces"] += [{"type": "cgroup"}, {"type": "time"}]
    config["linux"]["timeOffsets"] = {"monotonic": {"secs": 5}}
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}


def priorities(config: Config) -> None:
    config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 5}
    config["process"]["execCPUAffinity"] = {"initial": "0", "final": "0"}
    config["linux"]["personality"] = {"domain": "LINUX"}


def users(config: Config) -> None:
    everybody = [{"containerID": 0, "hostID": 0, "size": 65536}]
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = everybody


FEATURES: dict[str, Any] = {
    "filter": lambda config: config["linux"].update(seccomp=FILTER),
    "filter without new privileges": lambda config: (
        config["linux"].update(seccomp=FILTER), config["process"].update(noNewPrivileges=True),
    ),
    "hooks": lambda config: config.update(
        hooks={kind: [HOOK] for kind in ("createRuntime", "createContainer", "startContainer")}
    ),
    "limits": limits,
    "mounts": mounts,
    "namespaces": namespaces,
    "priorities": priorities,
    "process": process,
    "read-only": lambda config: config["root"].update(readonly=True),
    "users": users,
}  # fmt: skip


@pytest.mark.parametrize("feature", FEATURES)
def test_no_feature_loads_a_module_or_a_library_of_the_image(
    runtime: Runtime, trapped: Bundle, feature: str
) -> None:
    FEATURES[feature](trapped.config)
    trapped.write()
    container = runtime.create(trapped)
    container("start")
    container.wait_for_output("up")
    runtime("exec", container.id, "true")
    assert_not_trapped(trapped)


def test_everything_at_once_loads_nothing_of_the_image(runtime: Runtime, trapped: Bundle) -> None:
    for name, change in FEATURES.items():
        if name not in ("users", "read-only"):  # one takes rights the others need
            change(trapped.config)
    trapped.write()
    result = runtime("run", "-d", "--bundle", str(trapped.path), runtime.new_id(),
                     output=trapped.path / "output")  # fmt: skip
    assert result.status == 0, str(result)
    assert_not_trapped(trapped)


def test_a_terminal_loads_nothing_of_the_image(runtime: Runtime, trapped: Bundle) -> None:
    trapped.config["process"]["terminal"] = True
    trapped.config["process"]["args"] = ["true"]
    trapped.write()
    master, slave = os.openpty()
    try:
        line = runtime.argv("run", "--bundle", str(trapped.path), runtime.new_id())
        done = subprocess.run(
            ["setsid", "--ctty", *line], stdin=slave, stdout=slave, stderr=slave,
            env=runtime.environment, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 0
    assert_not_trapped(trapped)
