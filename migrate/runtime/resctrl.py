"""A container's class of service: which part of caches and memory bandwidth is its own.

Lives here: groups of the resctrl file system. Must not live here: what may be asked for
(`spec.belongings`). Imported where a container has `linux.intelRdt`. Source:
config-linux.md "IntelRdt", the kernel's arch/x86/resctrl.rst.
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import IntelRdt
    from migrate.runtime.state import Record

DEFAULT = "/sys/fs/resctrl"
RDTGROUP_SUPER_MAGIC = 0x07655821


def mount_point() -> str | None:
    """Return where resctrl is mounted, None where it is not."""
    try:
        fd = os.open(DEFAULT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        fd = -1
    if fd >= 0:
        try:
            if syscalls.fstatfs(fd) == RDTGROUP_SUPER_MAGIC:
                return DEFAULT
        except KernelError:
            pass
        finally:
            os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            if " - resctrl " in line:
                return line.split(" ")[4]
    return None


def plan(record: Record, rdt: IntelRdt, root: str) -> None:
    """Write into a record where the container's group is to be; nothing is made.

    What is written there is what `leave` removes: the group where it has no name of its
    own and is not there yet, and the container's monitoring group.
    """
    name = rdt.get("closID", "")
    group = root if name == "/" else f"{root}/{name or record['id']}"
    record["rdt"] = {"group": group}
    if not name and not os.path.isdir(group):
        record["rdt"]["made"] = group
    if rdt.get("enableMonitoring"):
        record["rdt"]["monitor"] = f"{group}/mon_groups/{record['id']}"


def enter(record: Record, rdt: IntelRdt, pid: int) -> None:
    """Make the group, or check the one that is there, and move a process in.

    Raises:
        StageError: the kernel does not take what it is told, or a group that is there
            differs from what is asked for.
    """
    place = record["rdt"]
    group, root = place["group"], root_of(place["group"])
    wanted = _schemata(rdt)
    is_there = os.path.isdir(group)
    if not is_there and rdt.get("closID") and not wanted:
        raise StageError(
            f"$.linux.intelRdt.closID: there is no class {rdt['closID']}",
            "Make it beforehand, or give schemata.",
        )
    try:
        if not is_there:
            os.mkdir(group, 0o755)
        if is_there and rdt.get("closID"):
            _compare(group, wanted)
        else:
            for line in wanted:
                _write(f"{group}/schemata", f"{line}\n")
        if "monitor" in place:
            os.makedirs(place["monitor"], 0o755, exist_ok=True)
    except OSError as error:
        raise StageError(
            f"$.linux.intelRdt: {group}: {str(error.strerror).lower()}{_last_status(root)}"
        ) from None
    join(record, pid)


def update(record: Record, rdt: IntelRdt, root: str) -> None:
    """Give a container other schemata; one that had no class gets its own.

    Args:
        record: of a running container; says afterwards what `leave` is to remove.
        rdt: the schemata alone.
        root: where resctrl is mounted.

    Raises:
        StageError: the kernel does not take them.
    """
    if "rdt" not in record:
        plan(record, rdt, root)
        enter(record, rdt, record["pid"])
        return
    group = record["rdt"]["group"]
    try:
        for line in _schemata(rdt):
            _write(f"{group}/schemata", f"{line}\n")
    except OSError as error:
        raise StageError(
            f"{group}/schemata: {str(error.strerror).lower()}{_last_status(root)}"
        ) from None


def _schemata(rdt: IntelRdt) -> list[str]:
    """The lines that are asked for, in the order the runtime-spec has them written."""
    lines = (rdt.get("l3CacheSchema"), rdt.get("memBwSchema"), *rdt.get("schemata", []))
    return [line for line in lines if line]


def join(record: Record, pid: int) -> None:
    """Move a process into a container's groups.

    Raises:
        StageError: the kernel refuses it.
    """
    for name in ("group", "monitor"):
        group = record["rdt"].get(name)
        if group:
            try:
                _write(f"{group}/tasks", str(pid))
            except OSError as error:
                reason = str(error.strerror).lower()
                raise StageError(f"$.linux.intelRdt: {group}/tasks: {reason}") from None


def leave(record: Record) -> list[str]:
    """Remove what was made for a container; return what stays and why."""
    problems = []
    for name in ("monitor", "made"):
        group = record["rdt"].get(name)
        if group:
            try:
                os.rmdir(group)
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(f"{group} stays: {str(error.strerror).lower()}")
    return problems


def _compare(group: str, wanted: list[str]) -> None:
    """Refuse a class that is there already and says something else."""
    with open(f"{group}/schemata", encoding="ascii") as file:
        there = dict(_read_line(line) for line in file if ":" in line)
    for line in wanted:
        name, domains = _read_line(line)
        if any(there.get(name, {}).get(key) != value for key, value in domains.items()):
            raise StageError(
                f"$.linux.intelRdt: the class {group} is there and differs from {line}",
                "Use another closID, or the schemata it has.",
            )


def _read_line(line: str) -> tuple[str, dict[str, str]]:
    """Name and domains of a line such as "L3:0=7ff;1=01f", numbers without leading zeros."""
    name, _, rest = line.strip().partition(":")
    pairs = (item.partition("=") for item in rest.split(";") if item.strip())
    return name, {
        key.strip().lstrip("0"): value.strip().lower().lstrip("0") for key, _, value in pairs
    }


def root_of(group: str) -> str:
    """Return the root of the file system a group is in."""
    return group if os.path.isdir(f"{group}/info") else os.path.dirname(group)


def _last_status(root: str) -> str:
    """What the kernel itself says of the last command, see resctrl.rst."""
    try:
        with open(f"{root}/info/last_cmd_status", encoding="ascii", errors="replace") as file:
            said = file.read().strip()
    except OSError:
        return ""
    return f" ({said})" if said and said != "ok" else ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
