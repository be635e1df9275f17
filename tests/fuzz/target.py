"""What must hold for whatever bytes config.json has.

Lives here: the way of a configuration from bytes to a plan, none of which changes the
host. It either ends in a plan that can be sent to the container's first process, or in an
error of this program's own, in one line. Everything else is a fault.
"""

from __future__ import annotations

import marshal
from typing import Any

from migrate.cli.reporting import readable
from migrate.errors import MigrateError
from migrate.runtime import plan
from migrate.runtime.cgroup import device_program, devices, hierarchy
from migrate.runtime.spec import decode
from migrate.runtime.spec.validation import rootfs_path, validate
from migrate.runtime.systemd import names, properties

LONGEST_LINE = 1000
HIERARCHIES = [("memory", "memory", "/sys/fs/cgroup/memory/x"), ("", "unified", "/sys/fs/cgroup/x")]


class Fault(AssertionError):
    """The configuration was taken, or refused, in another way than it should."""


def examine(data: bytes, bundle: str) -> bool:
    """Take a configuration as `create` does, up to where the host would change.

    Args:
        data: the bytes of config.json.
        bundle: a folder with an empty `rootfs`.

    Returns:
        Whether there is a plan.

    Raises:
        Fault: an error is not one line, or tells too much.
        Exception: whatever else is a fault.
    """
    try:
        _plan(data, bundle)
    except MigrateError as error:
        line = readable(" ".join(error.message.split()))
        if not line or len(line) > LONGEST_LINE or readable(error.hint) != error.hint:
            message = f"not one line to read: {error.message!r} ({error.hint!r})"
            raise Fault(message) from error
        return False
    return True


def _plan(data: bytes, bundle: str) -> None:
    spec = decode(data, f"{bundle}/config.json")
    validate(spec, bundle)
    linux: Any = spec.get("linux", {})
    made = plan.for_create(
        spec,
        container_id="x",
        bundle=bundle,
        rootfs=rootfs_path(spec, bundle),
        hierarchies=HIERARCHIES,
        no_pivot=False,
        keyring="_ses.x",
        preserve_fds=0,
    )
    if marshal.loads(marshal.dumps(made)) != made:
        message = "the plan does not arrive as it was sent"
        raise Fault(message)
    plan.describe(made)
    resources = linux.get("resources") or {}
    device_program.program(devices.rules(resources.get("devices") or ()))
    for unified in (False, True):
        _words_of_systemd(spec, resources, unified=unified)
    hierarchy.resolve(linux.get("cgroupsPath"), "x")


def _words_of_systemd(spec: Any, resources: Any, *, unified: bool) -> None:
    """Put the limits into systemd's words; what it refuses, the other driver may take."""
    path = spec.get("linux", {}).get("cgroupsPath")
    try:
        names.unit_and_slice(path, "x", "system.slice")
        properties.of_annotations(spec.get("annotations", {}))
        properties.of_resources(resources, unified=unified, version=252, devices=True)
    except MigrateError:
        return
