"""Setting what `linux.resources` asks, on v1, v2 or both.

Lives here: the dispatch, and what both versions share. Must not live here: file names
of one version. Imported through `migrate.runtime.cgroup`.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError
from migrate.runtime.cgroup import tree
from migrate.runtime.cgroup.hierarchy import directory_of, is_unified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def create(paths: Mapping[str, str], resources: Mapping[str, Any] | None) -> None:
    """Make a container's cgroups and set its limits, before any process is in them.

    Args:
        paths: as `resolve` returned them.
        resources: `linux.resources`, decoded and valid; None where there is none. Devices
            are closed but for the needed ones in that case too.

    Raises:
        CgroupError: names the file, the value and the reason. What was made stays, for the
            caller to `destroy`.
    """
    tree.make(paths)
    limit_new(paths, resources)


def limit_new(paths: Mapping[str, str], resources: Mapping[str, Any] | None) -> None:
    """Set the limits of cgroups that are there and have none yet, see `create`."""
    resources = resources or {}
    devices = resources.get("devices") or ()
    if is_unified(paths):
        from migrate.runtime.cgroup import device_program

        try:
            device_program.attach(paths[""], devices)
        except CgroupError:
            from migrate.runtime.idmaps import in_user_namespace

            if (os.geteuid() == 0 and not in_user_namespace()) or _closes(devices):
                raise
            # A user may load no program. As with runc, that is no error where the
            # configuration closes nothing: what the user cannot open stays closed.
    else:
        directory = directory_of(paths, "devices")
        if directory is not None:
            from migrate.runtime.cgroup.devices import apply_v1

            apply_v1(directory, devices)
        elif any(not device.get("allow") for device in devices):
            raise CgroupError(
                "devices cannot be closed: the devices controller is not mounted",
                "Mount it below /sys/fs/cgroup.",
            )
    if any(name != "devices" for name in resources):
        update(paths, resources)


def _closes(devices: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether any rule closes, or opens less than everything."""
    return any(
        not device.get("allow") or set(device.get("access") or "rwm") != set("rwm")
        for device in devices
    )


def update(paths: Mapping[str, str], resources: Mapping[str, Any]) -> None:
    """Set limits of cgroups that are in use; device rules are left as they are.

    Args:
        resources: `linux.resources`; what is absent or zero stays as it is.

    Raises:
        CgroupError: names the file, the value and the reason.
    """
    if is_unified(paths):
        from migrate.runtime.cgroup import limits_v2

        limits_v2.apply(paths[""], resources)
    else:
        from migrate.runtime.cgroup import limits_v1

        limits_v1.apply(paths, resources)
