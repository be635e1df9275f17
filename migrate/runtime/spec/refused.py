"""Fields of the runtime-spec that this runtime does not carry out.

Lives here: one table of JSON paths, and the check. A configuration that asks for
one of them is refused in one line: to leave it out silently would run a
container with less protection, or less of anything, than was asked for.
"""

from __future__ import annotations

from migrate.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# member -> what it would be, and how to do without
LINUX: dict[str, tuple[str, str]] = {
    "intelRdt": ("Intel RDT is not supported", "Remove it."),
    "netDevices": ("moving network devices is not supported", "Remove it."),
}


def check(spec: dict[str, Any], path: str) -> None:
    """Refuse a configuration that asks for what is not carried out.

    Raises:
        ConfigError: names the field.
    """
    _check(spec.get("linux", {}), LINUX, f"{path}.linux")


def _check(value: dict[str, Any], table: dict[str, tuple[str, str]], path: str) -> None:
    for name, (problem, hint) in table.items():
        if value.get(name):  # empty: nothing is asked for
            raise ConfigError(f"{path}.{name}", problem, hint)
