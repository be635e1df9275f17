"""What a host's kernel offers a container, and how much of it is left.

Lives here: reading /proc and /sys, one function a subject, see proc(5). Must not live
here: what follows from it (`comparison`, `demands`, `machine`). `live.host_facts` only.
"""

from __future__ import annotations

import os
import resource

from migrate.runtime.cgroup.hierarchy import hierarchies, is_unified

# Limits by the names of setrlimit(2), as far as Python knows them.
LIMITS = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in sorted(vars(resource))
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
# Names of the limits on namespaces in /proc/sys/user, by those of /proc/PID/ns.
_NAMESPACE_LIMITS = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}


def hard_limits(pid: int) -> dict[str, int]:
    """Return a process's hard limits; pid 0 means this one's."""
    found = {}
    for name, number in LIMITS.items():
        try:
            hard = resource.prlimit(pid, number)[1]
        except (OSError, ValueError):
            continue
        found[name] = hard & 0xFFFFFFFFFFFFFFFF
    return found


def available_memory() -> int:
    """Return the bytes that processes can still have."""
    for line in lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def huge_pages() -> dict[str, int]:
    """Return how many huge pages are free, by their size in kB."""
    folder = "/sys/kernel/mm/hugepages"
    try:
        sizes = os.listdir(folder)
    except OSError:
        return {}
    return {
        name.removeprefix("hugepages-").removesuffix("kB"): number(
            f"{folder}/{name}/free_hugepages"
        )
        for name in sizes
    }


def processor() -> tuple[str, str, list[str]]:
    """Return the processor's maker, its name, and its flags as /proc/cpuinfo has them."""
    found = {"vendor_id": "", "model name": "", "flags": ""}
    names = {"CPU implementer": "vendor_id", "Features": "flags"}
    for line in lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        name = names.get(key.strip(), key.strip())
        if name in found:
            found[name] = found[name] or value.strip()
        elif not key.strip() and found["flags"]:
            break  # the other processors are like the first
    return found["vendor_id"], found["model name"], found["flags"].split()


def online(folder: str) -> list[int]:
    """Return which of the processors, or memory nodes, of a folder of /sys are there."""
    found = words(f"/sys/devices/system/{folder}/online")
    return numbers_of(found[0]) if found else []


def numbers_of(text: str) -> list[int]:
    """Return the numbers of a list as the kernel writes it, such as `0-3,8`; see cpuset(7)."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last.isdigit() or not last):
            found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


def controllers() -> list[str]:
    """Return the control groups' controllers that can set limits here, by v1's names."""
    trees = hierarchies()
    if not is_unified(trees):
        keys = (key for key in trees if not key.startswith("name="))
        return sorted({name for key in keys for name in key.split(",")} - {""})
    found = words(f"{trees[''].mount_point}/cgroup.controllers")
    # A program of BPF stands for the devices' controller in version 2.
    return sorted({"devices", *("blkio" if name == "io" else name for name in found)})


def namespaces() -> list[str]:
    """Return the kinds of namespaces, by the names of /proc/PID/ns, that can be made here."""
    kinds = (name for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children"))
    return sorted(
        kind
        for kind in kinds
        if kind not in _NAMESPACE_LIMITS or words(f"/proc/sys/user/max_{kind}_namespaces") != ["0"]
    )


def filesystems() -> list[str]:
    """Return the types of file systems that the kernel has loaded."""
    return sorted(line.split("\t")[-1] for line in lines("/proc/filesystems"))


def drivers() -> list[str]:
    """Return the major numbers of devices that have a driver, as `c 1` and `b 8`."""
    found, kind = [], "c"
    for line in lines("/proc/devices"):
        if line.startswith("Block"):
            kind = "b"
        elif line.split() and line.split()[0].isdigit():
            found.append(f"{kind} {line.split()[0]}")
    return sorted(set(found))


def open_files_left() -> int:
    """Return how many files can still be opened on this host."""
    numbers = words("/proc/sys/fs/file-nr", "\t")
    return int(numbers[2]) - int(numbers[0]) if len(numbers) == 3 else 0


def room(path: str) -> tuple[int, int]:
    """Return bytes and files that fit where a path is or would be; (0, -1) if unknown."""
    try:
        status = os.statvfs(_nearest(path))
    except OSError:
        return 0, -1
    files = status.f_favail if status.f_files else -1
    return status.f_bavail * status.f_frsize, files


def filesystem_of(path: str) -> str:
    """Return the number of the file system a path is or would be on; "" if unknown."""
    try:
        return str(os.stat(_nearest(path)).st_dev)
    except OSError:
        return ""


def _nearest(path: str) -> str:
    """Return the path, or the nearest folder above it that is there."""
    while not os.path.exists(path) and path not in {"", "/"}:
        path = os.path.dirname(path)
    return path or "/"


def lines(path: str) -> list[str]:
    """Return a file's lines, none where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def words(path: str, separator: str = " ") -> list[str]:
    """Return a file's words, none where it cannot be read."""
    return [word for line in lines(path) for word in line.strip().split(separator) if word]


def number(path: str) -> int:
    """Return the number a file begins with, 0 where there is none."""
    found = words(path)
    return int(found[0]) if found and found[0].isdigit() else 0
