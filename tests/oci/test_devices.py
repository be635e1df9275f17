"""Devices: the ones every container has, those of the config, and what the cgroup lets it open."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import pytest

from .driver import Config, Runtime, is_oracle

DEFAULTS = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
KMSG = {"path": "/dev/mine", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640,
        "uid": 1000, "gid": 50}  # fmt: skip

# No driver has this number: opening it fails in one way where the cgroup refuses it
# ("not permitted") and in another where it does not.
DRIVERLESS = {"path": "/dev/mine", "type": "c", "major": 10, "minor": 250, "fileMode": 0o666}
REFUSED = "2>&1 | grep -c 'not permitted' | head -1"


def with_devices(
    *devices: dict[str, Any], rules: list[Any] | None = None, capable: bool = False
) -> Callable[[Config], None]:
    """Add devices, and rules after the one that denies all."""

    def change(config: Config) -> None:
        config["linux"]["devices"] = list(devices)
        config["linux"]["resources"]["devices"] += rules or []
        if capable:
            for name in ("bounding", "effective", "permitted"):
                config["process"]["capabilities"][name] += ["CAP_MKNOD", "CAP_SYS_ADMIN"]

    return change


def test_the_default_devices_are_there_for_everyone(runtime: Runtime) -> None:
    out = runtime.shell(f"cd /dev; stat -c '%n %t %T %a %u %g' {' '.join(DEFAULTS)}")
    for line in out.splitlines():
        name, major, minor, mode, uid, gid = line.split()
        assert (int(major, 16), int(minor, 16)) == DEFAULTS[name]
        assert (mode, uid, gid) == ("666", "0", "0")
    assert len(out.splitlines()) == len(DEFAULTS)


def test_the_default_links_are_there(runtime: Runtime) -> None:
    out = runtime.shell("cd /dev; for i in fd stdin stdout stderr ptmx; do readlink $i; done")
    assert out.split() == [
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
    ]


def test_the_default_devices_can_be_used_by_any_user(runtime: Runtime) -> None:
    def change(config: Config) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    script = """
        echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 5 /dev/urandom | wc -c
        echo x > /dev/full || echo full
    """
    assert runtime.shell(script, change=change).split() == ["3", "5", "full"]


def test_a_pseudo_terminal_can_be_made_inside(runtime: Runtime) -> None:
    assert runtime.shell("exec 3<>/dev/ptmx; ls /dev/pts").split() == ["0", "ptmx"]


def test_a_configured_device_has_its_number_mode_and_owner(runtime: Runtime) -> None:
    out = runtime.shell("stat -c '%F %t %T %a %u %g' /dev/mine", change=with_devices(KMSG))
    assert out == "character special file 1 b 640 1000 50\n"


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ({"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 99}, "block special file"),
        ({"path": "/dev/pipe", "type": "p"}, "fifo"),
        ({"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3},
         "character special file"),
        ({"path": "/elsewhere/c", "type": "c", "major": 1, "minor": 3}, "character special file"),
    ],
)  # fmt: skip
def test_each_type_of_device_is_made_where_it_is_asked_for(
    runtime: Runtime, device: dict[str, Any], kind: str
) -> None:
    out = runtime.shell(f"stat -c %F {device['path']}", change=with_devices(device))
    assert out == f"{kind}\n"


def test_a_configured_device_may_be_opened_only_by_a_rule(runtime: Runtime) -> None:
    rule = {"allow": True, "type": "c", "major": 10, "minor": 250, "access": "rw"}
    script = f"cat /dev/mine {REFUSED}"
    assert runtime.shell(script, change=with_devices(DRIVERLESS)) == "1\n"
    assert runtime.shell(script, change=with_devices(DRIVERLESS, rules=[rule])) == "0\n"


def test_rules_of_the_cgroup_are_kept_in_order(runtime: Runtime) -> None:
    rules = [
        {"allow": True, "type": "c", "major": 10, "minor": 250, "access": "rwm"},
        {"allow": False, "type": "c", "major": 10, "minor": 250, "access": "w"},
    ]
    script = f"cat /dev/mine {REFUSED}; (echo x > /dev/mine) {REFUSED}"
    assert runtime.shell(script, change=with_devices(DRIVERLESS, rules=rules)) == "0\n1\n"


def test_a_device_made_inside_cannot_be_opened(runtime: Runtime) -> None:
    script = f"mknod /tmp/c c 10 250 && echo made; cat /tmp/c {REFUSED}"
    assert runtime.shell(script, change=with_devices(capable=True)) == "made\n1\n"


def test_the_host_gets_no_devices_from_a_container(runtime: Runtime) -> None:
    bundle = runtime.bundle("true", change=with_devices(KMSG))
    runtime.run(bundle)
    assert not [p for p in bundle.rootfs.rglob("*") if stat.S_ISCHR(p.lstat().st_mode)]
    assert sorted(os.listdir(bundle.rootfs / "dev")) == []


@pytest.mark.parametrize(
    "device",
    [
        {"path": "/dev/mine", "type": "z", "major": 1, "minor": 3},
        {"path": "", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/mine", "type": "c", "major": -1, "minor": 3},
    ],
)
def test_a_device_that_makes_no_sense_is_refused(runtime: Runtime, device: dict[str, Any]) -> None:
    bundle = runtime.bundle("true", change=with_devices(device))
    error = runtime.refuses("run", "--bundle", str(bundle.path), runtime.new_id())
    assert is_oracle() or "$.linux.devices[0]" in error
    assert runtime.ids() == []
