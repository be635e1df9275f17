"""Rules of what a container is given of the host's: network devices, classes of service.

Lives here: the checks of `netDevices` and `intelRdt`. Must not live here: moving a
device or writing to resctrl. Imported where a configuration has one of them.
"""

from __future__ import annotations

import os

from migrate.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import IntelRdt, NetDevice

LONGEST_DEVICE_NAME = 15  # IFNAMSIZ without its zero


def check_devices(devices: dict[str, NetDevice], *, has_namespace: bool) -> None:
    """Refuse network devices that cannot be moved.

    Args:
        devices: of `$.linux.netDevices`.
        has_namespace: whether the container has a network namespace that is not ours.

    Raises:
        ConfigError: names the JSON path and what is wrong.
    """
    where = "$.linux.netDevices"
    if not devices:
        return
    if not has_namespace:
        raise ConfigError(
            where,
            "unable to move network devices without a private network namespace",
            'Add {"type": "network"}.',
        )
    if os.geteuid() != 0:
        raise ConfigError(where, "network devices take root on the host", "Remove it.")
    inside = set()
    for name, device in devices.items():
        new = device.get("name") or name
        for each in (name, new):
            if not _is_name(each) or ("%" in each and (each is name or not _is_template(each))):
                raise ConfigError(f"{where}[{name}]", f'"{each}" is no name of a network device')
        if new in inside and "%d" not in new:
            raise ConfigError(f"{where}[{name}]", f"{new} is given twice")
        inside.add(new)


def _is_name(name: str) -> bool:
    """As the kernel's dev_valid_name."""
    return (
        name not in ("", ".", "..")
        and len(os.fsencode(name)) <= LONGEST_DEVICE_NAME
        and not any(letter in "/:" or letter.isspace() for letter in name)
    )


def _is_template(name: str) -> bool:
    return name.count("%") == 1 and "%d" in name


def check_rdt(rdt: IntelRdt, *, has_resctrl: bool) -> None:
    """Refuse a class of service that cannot be, see `check_devices`.

    Args:
        rdt: `$.linux.intelRdt`.
        has_resctrl: whether resctrl is mounted.
    """
    where = "$.linux.intelRdt"
    if not has_resctrl:
        raise ConfigError(
            where,
            "is asked for, but no resctrl file system is mounted",
            "Mount it (`mount -t resctrl resctrl /sys/fs/resctrl`) where the processor has RDT, "
            "or remove it.",
        )
    name = rdt.get("closID", "")
    if name in (".", "..") or ("/" in name and name != "/"):
        raise ConfigError(f"{where}.closID", f'"{name}" is no name of a class')
    lines = [("l3CacheSchema", rdt.get("l3CacheSchema", ""))]
    lines += [("memBwSchema", rdt.get("memBwSchema", ""))]
    lines += [(f"schemata[{at}]", line) for at, line in enumerate(rdt.get("schemata", []))]
    for member, line in lines:
        if "\n" in line:
            raise ConfigError(f"{where}.{member}", "has more than one line")
    bandwidth = rdt.get("memBwSchema", "")
    if bandwidth and not bandwidth.startswith("MB:"):
        raise ConfigError(f"{where}.memBwSchema", f'"{bandwidth}" does not begin with "MB:"')
