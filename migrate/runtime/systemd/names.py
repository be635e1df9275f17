"""Where a container is among systemd's units, and in the control group trees.

Lives here: reading `cgroupsPath` in the form "slice:prefix:name" as runc does (its
docs/systemd.md), and systemd.slice(5)'s rule of what is below what. Must not live here:
anything that asks or changes something. Imported by `driver`.
"""

from __future__ import annotations

from migrate.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SLICE = ".slice"
SCOPE = ".scope"
ROOT_SLICE = "-.slice"
PREFIX = "runc"  # as in runc: engines look for the unit by this name
LONGEST = 255  # UNIT_NAME_MAX, see systemd.unit(5)
CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@")


def unit_and_slice(cgroups_path: str | None, container_id: str, default: str) -> tuple[str, str]:
    """Return the names of a container's unit and of the slice it is in.

    Args:
        cgroups_path: `linux.cgroupsPath`; None or "" stands for the id in the default slice.
        container_id: the unit's name where there is no path.
        default: the slice where none is named.

    Raises:
        CgroupError: the path is not "slice:prefix:name", or no unit can have that name.
    """
    if cgroups_path:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            raise CgroupError(
                'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                f'got "{cgroups_path}" instead',
                'Write such as "system.slice:runc:web", or leave --systemd-cgroup out.',
            )
        parent, prefix, name = parts
    else:
        parent, prefix, name = "", PREFIX, container_id
    # A slice is the container's only where its name says so; its prefix does not count.
    unit = name if name.endswith(SLICE) else f"{prefix}-{name}{SCOPE}"
    # An id may hold "+", which no unit's name can: as systemd-escape(1) writes it.
    unit = unit.replace("+", "\\x2b")
    refuse_impossible(unit)
    below(parent or default)
    if unit.endswith(SLICE):
        below(unit)
    return unit, parent or default


def refuse_impossible(unit: str) -> None:
    """Refuse what no scope and no slice can be called.

    Raises:
        CgroupError: says so; such a name must never reach a path.
    """
    stem = unit.rpartition(".")[0]
    if (
        not unit.endswith((SLICE, SCOPE))
        or not stem
        or len(unit) > LONGEST
        or not CHARACTERS.issuperset(unit)
    ):
        raise CgroupError(
            f'"{unit}" cannot be the name of a systemd unit',
            'Write cgroupsPath as "slice:prefix:name" of letters, digits and : - _ . @ only.',
        )


def below(name: str) -> str:
    """Return the directory of a slice, relative to the manager's own: "a.slice/a-b.slice".

    Raises:
        CgroupError: it is no slice's name.
    """
    if name == ROOT_SLICE:
        return ""
    parts = name.removesuffix(SLICE).split("-")
    refuse_impossible(name)
    if not name.endswith(SLICE) or not all(parts):
        raise CgroupError(
            f'"{name}" is not the name of a slice',
            'Write such as "machine.slice" or "user-1000.slice", see systemd.slice(5).',
        )
    return "/".join("-".join(parts[: count + 1]) + SLICE for count in range(len(parts)))


def directories(
    mount_points: Mapping[str, str], manager_group: str, unit: str, slice_name: str
) -> dict[str, str]:
    """Return the unit's directory in every tree.

    Args:
        mount_points: of the trees, by key.
        manager_group: of the service manager, "" for the trees' roots.
        unit: the container's.
        slice_name: the one it is in.
    """
    inner = below(unit) if unit.endswith(SLICE) else f"{below(slice_name)}/{unit}".lstrip("/")
    base = manager_group.strip("/")
    relative = f"{base}/{inner}" if base else inner
    return {key: f"{point.rstrip('/')}/{relative}" for key, point in mount_points.items()}
