"""Rules of a configuration that take more than one field to see.

Lives here: checks, after which `plan` needs none. Must not live here: anything
that changes the host; looking at the bundle and at /sys is all. Messages keep the
words of runc where engines or people look for them.
"""

from __future__ import annotations

import os
import posixpath

from migrate.errors import ConfigError
from migrate.runtime.spec import mounting, mountoptions
from migrate.runtime.spec.schema import HOOK_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import Hook, Linux, Mount, Process, Spec

RLIMITS: dict[str, int] = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

# By number, capability.h.
CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

# What may be bound over single files of procfs, because it only shows (lxcfs).
PROC_OVERLAYS = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)

# dev_t has 12 bits for the one and 20 for the other, see makedev(3).
LARGEST_MAJOR = (1 << 12) - 1
LARGEST_MINOR = (1 << 20) - 1

NANOSECONDS = 1_000_000_000

LARGEST_ID = (1 << 31) - 1  # runc's

IPC_SYSCTLS = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)


def validate(spec: Spec, bundle: str) -> None:
    """Refuse a configuration that cannot be carried out as it is written.

    Args:
        spec: a decoded configuration.
        bundle: absolute path of the bundle.

    Raises:
        ConfigError: names the JSON path and what is wrong.
    """
    if not spec["ociVersion"].startswith("1."):
        raise ConfigError("$.ociVersion", f'"{spec["ociVersion"]}" is not 1.x')
    if "process" not in spec:
        raise ConfigError("$.process", "process property must not be empty")
    validate_process(spec["process"], "$.process")
    _root(spec, bundle)
    linux: Linux = spec.get("linux", {})
    if linux.get("mountLabel") or linux.get("seccomp"):
        from migrate.runtime.spec.confinement import check_linux

        check_linux(linux, "$.linux")
    if "memoryPolicy" in linux or "personality" in linux:
        from migrate.runtime.spec import scheduling

        scheduling.check_linux(linux, "$.linux")
    kinds = _namespaces(linux)
    for at, mount in enumerate(spec.get("mounts", [])):
        _mount(mount, f"$.mounts[{at}]", kinds)
    _belongings(spec, linux, kinds)
    if "netDevices" in linux or "intelRdt" in linux:
        _check_belongings(linux, kinds)
    _id_mappings(linux, kinds)
    _cgroups_path(linux)
    _sysctl(linux, kinds)
    _devices(linux)
    _hooks(spec)
    for name in ("maskedPaths", "readonlyPaths"):
        paths: list[str] = linux.get(name, [])  # type: ignore[assignment]
        for at, path in enumerate(paths):
            _absolute(path, f"$.linux.{name}[{at}]")


def validate_process(process: Process, path: str) -> None:
    """Refuse a process that cannot be started as it is written, see `validate`."""
    if not process.get("args") or not process["args"][0]:
        raise ConfigError(f"{path}.args", "args must not be empty")
    if not process.get("cwd"):
        raise ConfigError(f"{path}.cwd", "Cwd property must not be empty")
    if not process["cwd"].startswith("/"):
        raise ConfigError(f"{path}.cwd", f'"{process["cwd"]}": Cwd must be an absolute path')
    for at, entry in enumerate(process.get("env", [])):
        if entry.find("=") < 1:
            raise ConfigError(f"{path}.env[{at}]", f'"{entry}" is not NAME=VALUE')
    seen = set()
    for at, limit in enumerate(process.get("rlimits", [])):
        where = f"{path}.rlimits[{at}]"
        if limit["type"] not in RLIMITS:
            raise ConfigError(where, f'unknown limit "{limit["type"]}"')
        if limit["type"] in seen:
            raise ConfigError(where, f"{limit['type']} is given twice")
        if limit["soft"] > limit["hard"]:
            raise ConfigError(where, "the soft limit is above the hard one")
        seen.add(limit["type"])
    if not -1000 <= process.get("oomScoreAdj", 0) <= 1000:
        raise ConfigError(f"{path}.oomScoreAdj", "is not between -1000 and 1000")
    _user(process, f"{path}.user")
    if "scheduler" in process or "ioPriority" in process or "execCPUAffinity" in process:
        from migrate.runtime.spec import scheduling

        scheduling.check_process(process, path)
    if process.get("apparmorProfile") or process.get("selinuxLabel"):
        from migrate.runtime.spec.confinement import check_labels

        check_labels(process, path)


def warnings(process: Process, path: str, mounts: list[Mount] | None = None) -> list[str]:
    """Return what a valid configuration says that is carried out otherwise than written.

    An unknown capability nobody can have, and is left out: the runtime-spec asks for a
    warning since 1.1, since a configuration may be newer than the machine; the process
    becomes weaker by it, not stronger.
    """
    sets: dict[str, list[str]] = process.get("capabilities", {})  # type: ignore[assignment]
    found = [
        f'{path}.capabilities.{name}[{at}]: unknown capability "{word}" is left out'
        for name, words in sets.items()
        for at, word in enumerate(words)
        if word not in CAPABILITIES
    ]
    for at, mount in enumerate(mounts or ()):
        if not mount["destination"].startswith("/"):
            found.append(
                f'$.mounts[{at}].destination: "{mount["destination"]}" is taken as relative to '
                '"/", which is deprecated'
            )
    return found


def _user(process: Process, where: str) -> None:
    user = process.get("user", {})
    for number in (user.get("uid", 0), user.get("gid", 0), *user.get("additionalGids", [])):
        # 4294967295 tells setresuid(2) to leave the ids as they are: root's.
        if number > LARGEST_ID:
            raise ConfigError(where, f"uids and gids must be in range 0-{LARGEST_ID}")
    if user.get("umask", 0) > 0o777:
        raise ConfigError(f"{where}.umask", "has more than the nine permission bits")


def rootfs_path(spec: Spec, bundle: str) -> str:
    """Return the absolute path of the root file system, links resolved."""
    if "root" not in spec or not spec["root"]["path"]:
        raise ConfigError("$.root", "Root must be specified")
    return os.path.realpath(os.path.join(bundle, spec["root"]["path"]))


def normal_destination(destination: str) -> str:
    """Return a path inside the container without "..", "." and doubled slashes."""
    return posixpath.normpath("/" + destination.lstrip("/"))


def _root(spec: Spec, bundle: str) -> None:
    path = rootfs_path(spec, bundle)
    if not os.path.isdir(path):
        raise ConfigError(
            "$.root.path",
            f"rootfs {path} does not exist"
            if not os.path.exists(path)
            else f"{path} is no directory",
            "Unpack an image there, for example with `tar -C rootfs -xf IMAGE.tar`.",
        )
    if path == "/":
        raise ConfigError("$.root.path", "the host's own root cannot be a container's")


def _namespaces(linux: Linux) -> dict[str, str]:
    """Return kind to path ("" to make one); each at most once."""
    kinds: dict[str, str] = {}
    for at, namespace in enumerate(linux.get("namespaces", [])):
        where = f"$.linux.namespaces[{at}]"
        kind, path = namespace["type"], namespace.get("path", "")
        if kind in kinds:
            raise ConfigError(where, f"a namespace of type {kind} is given twice")
        if path:
            _absolute(path, f"{where}.path")
        if not os.path.exists(f"/proc/self/ns/{NAMESPACE_FILES[kind]}"):
            raise ConfigError(where, f"this kernel has no {kind} namespaces")
        kinds[kind] = path
    if "mount" not in kinds:
        raise ConfigError(
            "$.linux.namespaces",
            "a container needs a mount namespace",
            'Add {"type": "mount"}.',
        )
    return kinds


NAMESPACE_FILES: dict[str, str] = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}


def _belongings(spec: Spec, linux: Linux, kinds: dict[str, str]) -> None:
    """Names and clocks belong to namespaces: without one they would be the host's."""
    for name in ("hostname", "domainname"):
        if spec.get(name) and "uts" not in kinds:
            raise ConfigError(f"$.{name}", f"unable to set {name} without a private UTS namespace")
    offsets = linux.get("timeOffsets")
    if offsets:
        if kinds.get("time", "joined"):
            raise ConfigError("$.linux.timeOffsets", "needs a new time namespace")
        for clock in offsets:
            if clock not in ("monotonic", "boottime"):
                raise ConfigError("$.linux.timeOffsets", f'no clock "{clock}" has an offset')
        for clock, offset in offsets.items():
            if offset.get("nanosecs", 0) >= NANOSECONDS:
                where = f"$.linux.timeOffsets[{clock}].nanosecs"
                raise ConfigError(where, f"{offset['nanosecs']} is a second or more")


def _check_belongings(linux: Linux, kinds: dict[str, str]) -> None:
    """What a container is given of the host's."""
    from migrate.runtime.spec import belongings

    has_network = "network" in kinds and not _is_ours("network", kinds["network"])
    belongings.check_devices(linux.get("netDevices", {}), has_namespace=has_network)
    if "intelRdt" in linux:
        from migrate.runtime import resctrl

        belongings.check_rdt(linux["intelRdt"], has_resctrl=bool(resctrl.mount_point()))


def _id_mappings(linux: Linux, kinds: dict[str, str]) -> None:
    mapped = linux.get("uidMappings"), linux.get("gidMappings")
    if any(mapped) and "user" not in kinds:
        raise ConfigError(
            "$.linux.uidMappings", "id mappings need a user namespace", 'Add {"type": "user"}.'
        )
    if kinds.get("user") == "" and not all(mapped):
        raise ConfigError(
            "$.linux.namespaces", "a new user namespace needs uidMappings and gidMappings"
        )


def _cgroups_path(linux: Linux) -> None:
    """A path that leads up, or to the tree's root, would put limits on strangers."""
    path = linux.get("cgroupsPath", "")
    if ".." in path.split("/") or (path and not path.strip("/.")):
        raise ConfigError(
            "$.linux.cgroupsPath",
            f'"{path}" is not below the root of the control groups',
            'Write a path without "..".',
        )


def _sysctl(linux: Linux, kinds: dict[str, str]) -> None:
    """Allow the parameters that belong to a namespace of the container's own."""
    for key in linux.get("sysctl", {}):
        where = f"$.linux.sysctl[{key}]"
        dotted = key.replace("/", ".")
        if ".." in dotted or not all(part for part in dotted.split(".")):
            raise ConfigError(where, "is no parameter")
        if dotted in IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            needed = "ipc"
        elif dotted.startswith("net."):
            needed = "network"
        elif dotted == "kernel.domainname":
            needed = "uts"
        elif dotted.startswith("user."):
            needed = "user"  # of the host's it would bind everybody
        elif dotted == "kernel.hostname":
            raise ConfigError(where, "is set by $.hostname")
        else:
            raise ConfigError(where, "is not in a separate kernel namespace")
        if needed not in kinds or _is_ours(needed, kinds[needed]):
            raise ConfigError(where, f"is not allowed in the hosts {needed} namespace")


def _is_ours(kind: str, path: str) -> bool:
    """Tell whether a namespace that is joined by path is the one we are in ourselves."""
    if not path:
        return False
    try:
        return os.path.samefile(path, f"/proc/self/ns/{NAMESPACE_FILES[kind]}")
    except OSError:  # joining it says why
        return False


def _mount(mount: Mount, where: str, kinds: dict[str, str]) -> None:
    destination = normal_destination(mount["destination"])
    if not mount["destination"] or destination == "/":
        raise ConfigError(f"{where}.destination", "cannot be the root")
    options = mountoptions.parse(mount.get("options", []), f"{where}.options")
    kind = mount.get("type", "")
    is_bind = bool(options.bind) or kind == "bind"
    if is_bind and not mount.get("source") and not options.remounts:
        raise ConfigError(f"{where}.source", "a bind mount needs a source")
    if options.remounts or options.copies_up or mounting.is_id_mapped(mount, options):
        mounting.check(mount, options, where, kinds)
    if options.remounts:
        return
    if is_bind:
        mounting.check_bind_data(options, f"{where}.options")
    elif not kind:
        raise ConfigError(f"{where}.type", "is missing", 'Add a type, or the option "bind".')
    # Whoever can mount over procfs decides what init reads and writes there:
    # CVE-2019-16884, CVE-2019-19921.
    if destination == "/proc":
        if kind != "proc" and not is_bind:
            raise ConfigError(where, '"/proc" cannot be mounted because it is not of type "proc"')
    elif destination.startswith("/proc/") and destination not in PROC_OVERLAYS:
        raise ConfigError(where, f'"{destination}" cannot be mounted because it is inside /proc')
    if kind == "proc" and not is_bind and destination != "/proc":
        raise ConfigError(where, "procfs can only be mounted on /proc")


def _devices(linux: Linux) -> None:
    for at, device in enumerate(linux.get("devices", [])):
        where = f"$.linux.devices[{at}]"
        _absolute(device["path"], f"{where}.path")
        if normal_destination(device["path"]).startswith(("/proc/", "/sys/")):
            raise ConfigError(f"{where}.path", "cannot be in /proc or /sys")
        if device["type"] != "p" and not {"major", "minor"} <= set(device):
            raise ConfigError(where, "needs major and minor")
        for name, number, most in (
            ("major", device.get("major", 0), LARGEST_MAJOR),
            ("minor", device.get("minor", 0), LARGEST_MINOR),
        ):
            if not 0 <= number <= most:
                raise ConfigError(f"{where}.{name}", f"{number} is not between 0 and {most}")


def _hooks(spec: Spec) -> None:
    hooks: dict[str, list[Hook]] = spec.get("hooks", {})  # type: ignore[assignment]
    for kind in HOOK_KINDS:
        for at, hook in enumerate(hooks.get(kind, [])):
            where = f"$.hooks.{kind}[{at}]"
            _absolute(hook["path"], f"{where}.path")
            if hook.get("timeout", 1) <= 0:
                raise ConfigError(f"{where}.timeout", "must be greater than zero")


def _absolute(path: str, where: str) -> None:
    if not path.startswith("/"):
        raise ConfigError(where, f'"{path}" is not an absolute path')
