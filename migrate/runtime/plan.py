"""From a configuration to what the stages of init do: a list of operations.

Lives here: every decision about a container that can be made before it exists.
Must not live here: doing any of it. A plan is plain data: it is marshalled to
the stages, and `--debug` prints it.
"""

from __future__ import annotations

import os
import stat

from migrate import syscalls
from migrate.errors import ConfigError
from migrate.runtime import jsontext
from migrate.runtime.spec import mounting, mountoptions
from migrate.runtime.spec.validation import CAPABILITIES, normal_destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from migrate.runtime.spec.model import Linux, Mount, Process, Spec

    Operation = tuple[Any, ...]

NAMESPACE_FLAGS: dict[str, int] = {
    "user": syscalls.CLONE_NEWUSER,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "network": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "mount": syscalls.CLONE_NEWNS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}

PROPAGATION: dict[str, tuple[int, bool]] = {
    f"{prefix}{word}": (flag, bool(prefix))
    for word, flag in mountoptions.PROPAGATION.items()
    for prefix in ("", "r")
}

# path, major, minor
DEFAULT_DEVICES: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)

DEFAULT_LINKS: tuple[tuple[str, str], ...] = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)

DEFAULT_UMASK = 0o022


def for_create(
    spec: Spec,
    *,
    container_id: str,
    bundle: str,
    rootfs: str,
    hierarchies: list[tuple[str, str, str]],
    no_pivot: bool,
    keyring: str,
    preserve_fds: int,
) -> dict[str, Any]:
    """Return the plan of a new container.

    Args:
        spec: decoded and valid.
        container_id: its id.
        bundle: absolute path.
        rootfs: absolute path, links resolved.
        hierarchies: key, name below /sys/fs/cgroup, and the container's directory.
        no_pivot: chroot where pivot_root is impossible.
        keyring: name of its session key ring, "" for the caller's.
        preserve_fds: how many descriptors after the standard three reach the payload.
    """
    linux: Linux = spec.get("linux", {})
    kinds = {item["type"]: item.get("path", "") for item in linux.get("namespaces", [])}
    if no_pivot and linux.get("rootfsPropagation") in ("private", "rprivate"):
        # What the host unmounts would stay below the container's root (runc refuses it).
        raise ConfigError(
            "$.linux.rootfsPropagation",
            "of [r]private is not safe without pivot_root",
            "Leave out --no-pivot.",
        )
    made = [kind for kind, path in kinds.items() if not path and kind != "cgroup"]
    hooks: dict[str, Any] = {**spec.get("hooks", {})}
    destinations = [normal_destination(mount["destination"]) for mount in spec.get("mounts", [])]
    operations = [
        _mount(mount, at, bundle, hierarchies) for at, mount in enumerate(spec.get("mounts", []))
    ]
    if linux.get("mountLabel"):
        _label(operations, linux["mountLabel"])
    return {
        "stage": "create",
        "join": [(NAMESPACE_FLAGS[kind], path) for kind, path in kinds.items() if path],
        "unshare": sum(NAMESPACE_FLAGS[kind] for kind in made),
        "cgroup_namespace": kinds.get("cgroup") == "",
        "in_user_namespace": "user" in kinds,
        "time_offsets": _time_offsets(linux),
        "keyring": keyring,
        "rootfs": rootfs,
        "propagation": PROPAGATION.get(linux.get("rootfsPropagation", "")),
        "no_pivot": no_pivot,
        "mask_label": [("context", linux["mountLabel"])] if linux.get("mountLabel") else [],
        "operations": [*operations, *_devices(spec, linux)],
        "last_operations": _last(spec, linux, destinations),
        "rare": ["copyup"] if any(fields.get("copies_up") for _, fields in operations) else [],
        "wants_hooks": bool(hooks.get("prestart") or hooks.get("createRuntime")),
        "hooks": {kind: hooks.get(kind, []) for kind in ("createContainer", "startContainer")},
        "state": state_without_pid(spec, container_id, bundle),
        "process": {
            **process_plan(
                spec["process"], preserve_fds=preserve_fds, in_user_namespace="user" in kinds
            ),
            **lasting(linux),
        },
    }


def for_exec(
    process: Process,
    *,
    join: list[tuple[int, str]],
    in_user_namespace: bool,
    preserve_fds: int,
    keyring: str,
    adopted: bool,
) -> dict[str, Any]:
    """Return the plan of one more process of a container.

    Args:
        process: decoded and valid.
        join: namespace flag and path of each namespace that differs from ours.
        in_user_namespace: whether one of them is a user namespace.
        preserve_fds: how many descriptors after the standard three reach the payload.
        keyring: name of the container's session key ring, "" for the caller's.
        adopted: it becomes a child of the container's first process.
    """
    plan = process_plan(process, preserve_fds=preserve_fds, in_user_namespace=in_user_namespace)
    plan["make_cwd"] = False
    return {
        "stage": "exec",
        "rare": [],
        "join": join,
        "unshare": 0,
        "time_offsets": "",
        "in_user_namespace": in_user_namespace,
        "keyring": keyring,
        "adopted": adopted,
        "process": plan,
    }


def process_plan(process: Process, *, preserve_fds: int, in_user_namespace: bool) -> dict[str, Any]:
    """Return what a payload is to be."""
    user = process.get("user", {})
    sets: dict[str, list[str]] = {**process.get("capabilities", {})}  # type: ignore[dict-item]
    size = process.get("consoleSize")
    return {
        "args": process["args"],
        "env": process.get("env", []),
        "cwd": process["cwd"],
        "make_cwd": True,
        "terminal": process.get("terminal", False),
        "console_size": (size["height"], size["width"]) if size else None,
        "uid": user.get("uid", 0),
        "gid": user.get("gid", 0),
        "groups": user.get("additionalGids", []),
        "may_keep_groups": in_user_namespace,
        "umask": user.get("umask", DEFAULT_UMASK),
        "capabilities": {
            name: capability_mask(sets.get(name, []))
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        },
        "no_new_privileges": process.get("noNewPrivileges", False),
        "filtered": False,
        "personality": None,
        "memory_policy": None,
        "apparmor": process.get("apparmorProfile", ""),
        "selinux": process.get("selinuxLabel", ""),
        "preserve_fds": preserve_fds,
    }


def lasting(linux: Linux) -> dict[str, Any]:
    """Return what `linux` says of every process of the container, for its plan."""
    if "memoryPolicy" not in linux and "personality" not in linux:
        return {}
    from migrate.runtime.spec import scheduling

    found: dict[str, Any] = {}
    if "memoryPolicy" in linux:
        where = "$.linux.memoryPolicy"
        found["memory_policy"] = scheduling.memory_policy(linux["memoryPolicy"], where)
    if "personality" in linux:
        where = "$.linux.personality"
        found["personality"] = scheduling.persona(linux["personality"], where)
    return found


def capability_mask(names: list[str]) -> int:
    """Return the bits of capabilities, 1 << CAP_*; of an unknown one there is none."""
    return sum(1 << CAPABILITIES.index(name) for name in set(names) if name in CAPABILITIES)


def state_without_pid(spec: Spec, container_id: str, bundle: str) -> str:
    """Return the state hooks are told, as JSON, without status and pid."""
    state: dict[str, Any] = {"ociVersion": spec["ociVersion"], "id": container_id}
    state["bundle"] = bundle
    if spec.get("annotations"):
        state["annotations"] = spec["annotations"]
    return jsontext.dumps(state)


def describe(plan: dict[str, Any]) -> list[str]:
    """Return what a plan of `create` does, one line a step, for people."""
    kinds = {flag: kind for kind, flag in NAMESPACE_FLAGS.items()}
    made = [kind for flag, kind in kinds.items() if plan["unshare"] & flag]
    lines = [f"join the {kinds[flag]} namespace {path}" for flag, path in plan["join"]]
    lines.append(f"make namespaces: {', '.join(made)}")
    lines.append(f"root {plan['rootfs']}")
    lines += [_described(*operation) for operation in plan["operations"]]
    lines.append("chroot" if plan["no_pivot"] else "pivot_root")
    lines += [_described(*operation) for operation in plan["last_operations"]]
    process = plan["process"]
    lines.append(f"user {process['uid']}:{process['gid']}, directory {process['cwd']}")
    if process["filtered"]:
        lines.append("system call filter, right before the program")
    lines.append(f"wait for start, then execute {jsontext.dumps(process['args'])}")
    return lines


def _described(name: str, *arguments: object) -> str:
    words = [name]
    for argument in arguments:
        if isinstance(argument, dict):
            words += [f"{key}={value}" for key, value in argument.items() if value]
        else:
            words.append(str(argument))
    return " ".join(words)


def _time_offsets(linux: Linux) -> str:
    """Return the lines of /proc/PID/timens_offsets, see time_namespaces(7)."""
    return "".join(
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
        for clock, offset in linux.get("timeOffsets", {}).items()
    )


def _mount(
    mount: Mount, at: int, bundle: str, hierarchies: list[tuple[str, str, str]]
) -> Operation:
    options = mountoptions.parse(mount.get("options", []), f"$.mounts[{at}].options")
    kind = mount.get("type", "")
    destination = normal_destination(mount["destination"])
    source = mount.get("source", "")
    fields: dict[str, Any] = {
        "destination": destination,
        "attr_set": options.attr_set,
        "attr_clr": options.attr_clr,
        "rec_attr_set": options.rec_attr_set,
        "rec_attr_clr": options.rec_attr_clr,
        "propagation": options.propagation,
    }
    if options.remounts:
        is_bind = bool(options.bind) or kind == "bind"
        return "remount", {**fields, "data": [] if is_bind else options.data}
    if options.bind or kind == "bind":
        fields["id_mapped"] = at if mounting.is_id_mapped(mount, options) else None
        fields["source"] = os.path.join(bundle, source)
        fields["recursive"] = options.bind == "rbind"
        return "bind", fields
    if destination == "/dev":
        # Nodes are made in it first: read-only comes last, see _last.
        fields["attr_set"] &= ~syscalls.MOUNT_ATTR_RDONLY
    if kind in ("cgroup", "cgroup2"):
        return _cgroup(fields, options.data, hierarchies)
    fields.update(kind=kind, source=source, data=options.data, copies_up=options.copies_up)
    if options.attr_set & syscalls.MOUNT_ATTR_RDONLY and _is_block_device(source):
        # A file system is to leave a disk alone that it is given to read only.
        fields["data"] = [("ro", None), *options.data]
    return "filesystem", fields


def _is_block_device(source: str) -> bool:
    try:
        return source.startswith("/") and stat.S_ISBLK(os.stat(source).st_mode)
    except OSError:  # mounting says why
        return False


# Their files are labelled one by one, by the policy; the last takes no option for it.
_LABELLED_BY_POLICY = frozenset({"proc", "sysfs"})
_LABELLED_BY_ATTRIBUTE = "mqueue"


def _label(operations: list[Operation], label: str) -> None:
    """Add the SELinux label to the file systems that are made, as runc does."""
    for name, fields in operations:
        if name != "filesystem" or fields["kind"] in _LABELLED_BY_POLICY:
            continue
        if fields["kind"] == _LABELLED_BY_ATTRIBUTE:
            fields["root_label"] = label
        else:
            fields["data"] = [*fields["data"], ("context", label)]


def _cgroup(
    fields: dict[str, Any],
    data: list[tuple[str, str | None]],
    hierarchies: list[tuple[str, str, str]],
) -> Operation:
    """A mount of type cgroup is whatever the host has, as runc does."""
    unified = [path for key, _, path in hierarchies if not key]
    first = [item for item in hierarchies if item[0]]
    if not hierarchies:
        raise ConfigError("$.mounts", "no control group tree is mounted that could be shown")
    if not first:
        return "cgroup_v2", {**fields, "data": data, "host_path": unified[0]}
    for word, _ in data:
        if word not in mountoptions.SUPERBLOCK:
            raise ConfigError(
                "$.mounts", f"cgroup v1 has no option {word} that a container could give"
            )
    links = [
        (word, name)
        for key, name, _ in first
        for word in key.split(",")
        if "," in key and word != name
    ]
    v1 = [(name, _v1_options(key), path) for key, name, path in first]
    return "cgroup_v1", {**fields, "hierarchies": v1, "links": links}


def _v1_options(key: str) -> list[tuple[str, str | None]]:
    if key.startswith("name="):
        return [("none", None), ("name", key.removeprefix("name="))]
    return [(controller, None) for controller in key.split(",")]


def _devices(spec: Spec, linux: Linux) -> list[Operation]:
    """Nodes and links of /dev, unless the whole of it is the host's."""
    for mount in spec.get("mounts", []):
        is_bind = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options", []))
        if is_bind and normal_destination(mount["destination"]) == "/dev":
            return []
    nodes: dict[str, dict[str, Any]] = {
        path: _node(path, "c", major, minor) for path, major, minor in DEFAULT_DEVICES
    }
    for device in linux.get("devices", []):
        path = normal_destination(device["path"])
        node = _node(path, device["type"], device.get("major", 0), device.get("minor", 0))
        node["mode"] = stat.S_IMODE(device.get("fileMode", 0o666))
        node["uid"], node["gid"] = device.get("uid", 0), device.get("gid", 0)
        nodes[path] = node
    operations: list[Operation] = [("device", node) for node in nodes.values()]
    operations += [("link", path, target) for path, target in DEFAULT_LINKS]
    if os.path.exists("/proc/kcore"):
        operations.append(("link", "/dev/core", "/proc/kcore"))
    operations.append(("ptmx",))
    return operations


def _node(path: str, kind: str, major: int, minor: int) -> dict[str, Any]:
    return {
        "path": path,
        "type": kind,
        "major": major,
        "minor": minor,
        "mode": 0o666,
        "uid": 0,
        "gid": 0,
    }


def _last(spec: Spec, linux: Linux, destinations: list[str]) -> list[Operation]:
    """What comes after the pivot, when hooks have added what they wanted."""
    operations: list[Operation] = []
    for mount, destination in zip(spec.get("mounts", []), destinations, strict=True):
        if destination == "/dev" and mount.get("options", []) and _is_read_only(mount):
            operations.append(("set_attributes", "/dev", syscalls.MOUNT_ATTR_RDONLY))
    if spec.get("root", {}).get("readonly"):
        operations.append(("set_attributes", "/", syscalls.MOUNT_ATTR_RDONLY))
    propagation = PROPAGATION.get(linux.get("rootfsPropagation", ""))
    if propagation:
        operations.append(("propagate", *propagation))
    for name in ("hostname", "domainname"):
        value: object = spec.get(name)
        if value:
            operations.append((name, value))
    operations += [("sysctl", key, value) for key, value in linux.get("sysctl", {}).items()]
    operations += [("read_only", path) for path in linux.get("readonlyPaths", [])]
    operations += [("mask", path) for path in linux.get("maskedPaths", [])]
    return operations


def _is_read_only(mount: Mount) -> bool:
    options = mountoptions.parse(mount.get("options", []), "")
    is_bind = bool(options.bind) or mount.get("type") == "bind"
    return not is_bind and bool(options.attr_set & syscalls.MOUNT_ATTR_RDONLY)


def named_hierarchies(paths: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return key, name below /sys/fs/cgroup, and directory of a container's cgroups.

    A user without privileges may have none of its own: then it is in its caller's.
    """
    if paths and not any(paths):
        return [(key, "", path) for key, path in paths.items()]
    from migrate.runtime.cgroup.hierarchy import hierarchies

    trees = hierarchies()
    paths = paths or {key: tree.own for key, tree in trees.items()}
    return [
        (key, os.path.basename(trees[key].mount_point), path)
        for key, path in paths.items()
        if key in trees
    ]
