"""What `migrate spec` writes: runc's default configuration, word for word.

Lives here: that one value. Imported by the `spec` command only. Anything else
than runc's own file would make a user's second runtime behave differently.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)

_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def default_spec(rootless: bool, uid: int = 0, gid: int = 0) -> dict[str, Any]:  # noqa: FBT001 - the contract's shape
    """Return the default configuration, members in the order they are written.

    Args:
        rootless: for a user without privileges: no network namespace and no
            limits of its own, a user namespace that maps the user to root.
        uid: user the rootless container's root is, on the host.
        gid: group the rootless container's root is, on the host.
    """
    return {
        "ociVersion": "1.0.2-dev",
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": _mounts(rootless=rootless),
        "linux": _linux(uid, gid, rootless=rootless),
    }


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=xterm",
        ],
        "cwd": "/",
        "capabilities": {
            name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted", "ambient")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = list(options)
    return mount


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    guarded = ("nosuid", "noexec", "nodev")
    terminal_group = () if rootless else ("gid=5",)
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *terminal_group)
    # Without a network namespace of its own a user namespace cannot mount sysfs.
    sys = ("none", "/sys", "rbind") if rootless else ("sysfs", "sysfs")
    return [
        _mount("/proc", "proc", "proc"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *pts),
        _mount("/dev/shm", "tmpfs", "shm", *guarded, "mode=1777", "size=65536k"),  # noqa: S108 - the container's
        _mount("/dev/mqueue", "mqueue", "mqueue", *guarded),
        _mount("/sys", *sys, *guarded, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", *guarded, "relatime", "ro"),
    ]


def _linux(uid: int, gid: int, *, rootless: bool) -> dict[str, Any]:
    linux: dict[str, Any] = {}
    kinds = ["pid", "network", "ipc", "uts", "mount"]
    if rootless:
        kinds.remove("network")
        kinds.append("user")
        for name, own in (("uidMappings", uid), ("gidMappings", gid)):
            linux[name] = [{"containerID": 0, "hostID": own, "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    linux["maskedPaths"] = list(_MASKED)
    linux["readonlyPaths"] = list(_READ_ONLY)
    return linux
