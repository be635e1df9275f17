"""What this runtime can do, as the runtime-spec's features.md has it.

Lives here: the document, made of the tables that do the work. Must not live here: wishes.
May be imported by `cli`.
"""

from __future__ import annotations

from migrate.errors import StageError
from migrate.runtime.spec import mountoptions, schema
from migrate.runtime.spec.validation import CAPABILITIES, NAMESPACE_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_VERSION_MIN = "1.0.0"
OCI_VERSION_MAX = "1.3.0"


def features() -> dict[str, Any]:
    """Return the document. What is absent or false is refused by name, never ignored."""
    return {
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION_MAX,
        "hooks": list(schema.HOOK_KINDS),
        "mountOptions": _mount_options(),
        "linux": {
            "namespaces": sorted(NAMESPACE_FILES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": True,
                "systemdUser": True,
                "rdma": True,
            },
            "seccomp": _seccomp(),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "netDevices": {"enabled": True},
            "memoryPolicy": {
                "modes": list(schema.MEMORY_MODES),
                "flags": list(schema.MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }


def _seccomp() -> dict[str, Any]:
    """Return what filters may say: nothing where libseccomp is not installed."""
    try:
        from migrate.runtime import filters
    except StageError:
        return {"enabled": False}
    return {
        "enabled": True,
        "actions": sorted(filters.ACTIONS),
        "operators": sorted(filters.OPERATORS),
        "archs": sorted(filters.known_architectures()),
        "knownFlags": list(filters.FLAGS),
        "supportedFlags": filters.supported_flags(),
    }


def _mount_options() -> list[str]:
    """Return the words of `mounts[].options` that are carried out here."""
    words = [*mountoptions.ATTRIBUTES, *mountoptions.ATIME, *mountoptions.PROPAGATION]
    recursive = [f"r{word}" for word in words]
    plain = {*mountoptions.OWN, *mountoptions.SUPERBLOCK, *mountoptions.NOTHING}
    return sorted({*words, *recursive, *plain})
