"""Rules of what a mount may ask for beside flags of the kernel's.

Lives here: the checks of id-mapped mounts, tmpcopyup and remount. Must not live here:
the words themselves (`mountoptions`), mounting. Imported by `validation` and `plan`.
"""

from __future__ import annotations

import os

from migrate.errors import ConfigError
from migrate.runtime.spec.mountoptions import SUPERBLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import Mount
    from migrate.runtime.spec.mountoptions import MountOptions


def is_id_mapped(mount: Mount, options: MountOptions) -> bool:
    """Tell whether a mount shows other owners than its source has."""
    return bool(options.idmap or mount.get("uidMappings") or mount.get("gidMappings"))


def check(mount: Mount, options: MountOptions, where: str, kinds: dict[str, str]) -> None:
    """Refuse what does not go together.

    Args:
        mount: decoded.
        options: its words, read.
        where: its JSON path.
        kinds: namespace to path, "" for a new one.

    Raises:
        ConfigError: names the JSON path and what is wrong.
    """
    is_bind = bool(options.bind) or mount.get("type") == "bind"
    is_mapped = is_id_mapped(mount, options)
    if options.copies_up and (is_bind or mount.get("type") != "tmpfs" or options.remounts):
        raise ConfigError(f"{where}.options", "tmpcopyup is for a new mount of type tmpfs")
    if options.remounts and is_mapped:
        raise ConfigError(f"{where}.options", "a mount cannot be id-mapped by a remount")
    if is_mapped:
        _check_mapping(mount, where, kinds, is_bind=is_bind)


def _check_mapping(mount: Mount, where: str, kinds: dict[str, str], *, is_bind: bool) -> None:
    if not is_bind:
        raise ConfigError(where, "id-mapped mounts are only supported for bind mounts")
    if bool(mount.get("uidMappings")) != bool(mount.get("gidMappings")):
        raise ConfigError(where, "uidMappings and gidMappings must be given together")
    if not mount.get("uidMappings") and "user" not in kinds:
        raise ConfigError(
            f"{where}.options",
            "an id-mapped mount needs mappings, or a user namespace that has some",
            "Give uidMappings and gidMappings of the mount.",
        )
    if kinds.get("mount"):
        raise ConfigError(
            where,
            "cannot be id-mapped in a mount namespace that is joined",
            f"Leave out its path {kinds['mount']}.",
        )
    if os.geteuid() != 0:
        raise ConfigError(where, "an id-mapped mount takes root on the host")


def check_bind_data(options: MountOptions, where: str) -> None:
    """Refuse options of a file system for a bind mount: the kernel would ignore them.

    Those of the superblock are passed over as mount(8) does, and as every runtime has
    done: engines give them.
    """
    for key, value in options.data:
        if key not in SUPERBLOCK:
            word = key if value is None else f"{key}={value}"
            raise ConfigError(
                where, f"bind mounts cannot have the filesystem-specific option {word}"
            )
