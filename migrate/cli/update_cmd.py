"""`migrate update`: other limits for a running container."""

from __future__ import annotations

import sys

from migrate.errors import UsageError, WrongStatus
from migrate.runtime.spec import decode_resources
from migrate.runtime.update import update

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.cli.command import Call
    from migrate.runtime.spec.model import IntelRdt
    from migrate.runtime.state import Record, Store

# option -> section and field of `linux.resources`, and how its value is read
FIELDS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
TEXTS = ("cpuset-cpus", "cpuset-mems")
SIZES = ("memory", "memory-reservation", "memory-swap", "kernel-memory-tcp")
LARGEST_BYTES = 1 << 63
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def run(call: Call) -> int:
    """Set what was asked for, alone with the container."""
    resources = _from_file(call.text("resources")) if call.text("resources") else _asked(call)
    store = call.store
    with store.lock(call.id, command="update"):
        record = store.load(call.id)
        if call.text("l3-cache-schema") or call.text("mem-bw-schema"):
            _update_rdt(call, store, record)
        update(store, record, resources)
    return 0


def _update_rdt(call: Call, store: Store, record: Record) -> None:
    """Give the container other parts of caches and memory bandwidth."""
    from migrate.runtime import resctrl, state
    from migrate.runtime.spec.belongings import check_rdt

    rdt: IntelRdt = {}
    if call.text("l3-cache-schema"):
        rdt["l3CacheSchema"] = call.text("l3-cache-schema")
    if call.text("mem-bw-schema"):
        rdt["memBwSchema"] = call.text("mem-bw-schema")
    root = resctrl.mount_point()
    check_rdt(rdt, has_resctrl=root is not None)
    if state.status(record) in ("stopped", "creating"):
        raise WrongStatus("cannot update a container that does not run")
    resctrl.update(record, rdt, root or resctrl.DEFAULT)
    store.save(record)


def _from_file(path: str) -> dict[str, Any]:
    """Return the limits of a JSON file; `-` is standard input. Other options do not count."""
    try:
        if path == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                content = file.read()
    except OSError as error:
        raise UsageError(f"{path}: {str(error.strerror).lower()}") from None
    return dict(decode_resources(content, "standard input" if path == "-" else path))


def _asked(call: Call) -> dict[str, Any]:
    """Return the limits of the options."""
    resources: dict[str, Any] = {}
    for option, (section, field) in FIELDS.items():
        value = call.options[option]
        if value in ("", 0, None):
            continue
        if option in SIZES:
            value = _bytes(option, str(value))
        elif option not in TEXTS:
            value = _number(option, str(value))
        resources.setdefault(section, {})[field] = value
    return resources


def _number(option: str, text: str) -> int:
    """Return a whole number; int() alone takes blanks, underscores and other scripts' digits."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 19:
        return int(text)
    raise UsageError(f"invalid value for {option}: {_short(text)}", "Write a whole number.")


def _bytes(option: str, text: str) -> int:
    """Return a size such as 64M, in bytes; -1 stands for no limit."""
    if text == "-1":
        return -1
    lower = text.lower().strip().removesuffix("ib").removesuffix("b")
    digits, unit = (lower[:-1], lower[-1:]) if lower[-1:].isalpha() else (lower, "")
    if set(digits) <= set("0123456789.") and unit in UNITS:
        try:
            size = float(digits) * UNITS[unit]
        except ValueError:
            size = LARGEST_BYTES
        if size < LARGEST_BYTES:
            return int(size)
    raise UsageError(
        f"invalid value for {option}: {_short(text)}", "Write bytes, or a size such as 64M."
    )


def _short(text: str) -> str:
    """Return what fits on a line."""
    return text if len(text) <= 40 else f"{text[:37]}..."
