"""What a container's class of service holds and uses, under the names `runc events` gives it.

Lives here: reading groups of the resctrl file system. Must not live here: making them
(`resctrl`). Imported where a container has a class. Source: resctrl.rst of the kernel;
the names are those of runc's types/events.go.
"""

from __future__ import annotations

import os

from migrate.runtime.cgroup import files
from migrate.runtime.resctrl import root_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Resource -> name of its section, and its files in info/; the mask alone is a text.
_RESOURCES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("L3", "l3_cache_info", "l3_cache_schema", ("cbm_mask", "min_cbm_bits", "num_closids")),
    (
        "MB",
        "mem_bw_info",
        "mem_bw_schema",
        ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"),
    ),
)
# Section -> the files that are read in each domain of mon_data/.
_MONITORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")),
    ("cmt_stats", ("llc_occupancy",)),
)


def read(place: Mapping[str, str]) -> dict[str, Any]:
    """Return what the processor can do of it, and nothing of what it cannot.

    Args:
        place: of a record: `group`, and `monitor` where it has one, which counts the
            container alone where others are in the same class.
    """
    group = place["group"]
    root = root_of(group)
    found: dict[str, Any] = {}
    for resource, info, schema, names in _RESOURCES:
        if not os.path.isdir(f"{root}/info/{resource}"):
            continue
        values = {name: _text(f"{root}/info/{resource}/{name}") for name in names}
        found[info] = _set(
            {name: text if name == "cbm_mask" else _number(text) for name, text in values.items()}
        )
        found[f"{schema}_root"] = _schema(root, resource)
        found[schema] = _schema(group, resource)
    features = _text(f"{root}/info/L3_MON/mon_features").split()
    domains = _domains(f"{place.get('monitor', group)}/mon_data")
    for section, names in _MONITORS:
        if not set(names).isdisjoint(features):
            found[section] = [
                {name: _number(_text(f"{domain}/{name}")) for name in names} for domain in domains
            ]
    return _set(found)


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is zero or empty, as runc does here."""
    return {name: value for name, value in values.items() if value}


def _schema(group: str, resource: str) -> str:
    """Return the line of a group's schemata that is about a resource, such as "L3:0=7ff"."""
    lines = _text(f"{group}/schemata").splitlines()
    return next((line.strip() for line in reversed(lines) if resource in line), "")


def _domains(directory: str) -> list[str]:
    """Return the folders of the parts of the machine that are counted apart."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [path for name in names if os.path.isdir(path := f"{directory}/{name}")]


def _text(path: str) -> str:
    return files.read_if_there(path) or ""


def _number(text: str) -> int:
    """Return a counter; "Unavailable", which the kernel may say for a moment, is zero."""
    return int(text) if text.strip().isdigit() else 0
