"""CRIU's options for one container: decided here, and nowhere else.

Lives here: pure functions from facts and a request to the fields of `criu_opts`.
Must not live here: anything that looks at the host. May be imported by `checkpoint`;
the request classes by `live` and `cli` too.

An option that costs nothing where it is not needed is always on: what a container is
may change between the look at it (`inspect`) and its freeze. See criu(8) and
images/rpc.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from migrate.checkpoint.facts import CgroupPath, Facts, Mount
from migrate.errors import UsageError

CgroupMode = Literal["ignore", "none", "props", "soft", "full", "strict"]
NetworkLock = Literal["iptables", "nftables", "skip"]

CGROUP_MODES: dict[str, str] = {
    "ignore": "IGNORE",
    "none": "CG_NONE",
    "props": "PROPS",
    "soft": "SOFT",
    "full": "FULL",
    "strict": "STRICT",
}
NETWORK_LOCKS = ("iptables", "nftables", "skip")
NETWORK_KEY = "extRootNetNS"
_CLONE_NEWNET = 0x40000000
# CRIU's own limit is 1 MiB; files without a name must be in the image, or are lost.
_GHOST_LIMIT_SLACK_BYTES = 16 << 20
_UINT32_MAX = 0xFFFFFFFF


@dataclass(slots=True, frozen=True, kw_only=True)
class Request:
    """What the user, or `live`, asks of a dump and of a restore.

    None means: derive it from the container.

    Attributes:
        network: external (the namespace is provided at restore), image (CRIU puts it
            in the image), empty (nothing but lo comes back).
        lazy_pages: memory is not in the images, it is fetched page by page.
        timeout_seconds: CRIU gives up freezing after it; nobody kills CRIU.
        log_level: 0 to 4; 2 has errors and warnings, 4 slows CRIU down a little.
    """

    leave_running: bool = False
    tcp_established: bool | None = None
    tcp_close: bool = False
    tcp_skip_in_flight: bool = False
    ext_unix_sk: bool | None = None
    shell_job: bool = False
    file_locks: bool | None = None
    link_remap: bool | None = None
    cgroup_mode: CgroupMode | None = None
    network: Literal["external", "image", "empty"] | None = None
    network_lock: NetworkLock | None = None
    auto_dedup: bool = False
    lazy_pages: bool = False
    lsm_profile: str = ""
    lsm_mount_context: str = ""
    timeout_seconds: int = 10
    log_level: int = 4


@dataclass(slots=True, frozen=True, kw_only=True)
class Target:
    """Where a container is restored to.

    Attributes:
        root: path of a mount of the rootfs, as CRIU sees it.
        masked: path of an empty directory, mounted read-only, as CRIU sees it.
        binds: destination in the container to path on this host.
        cgroup: of the new container, as in its record.
        cgroup_paths: the same, from the root of each tree.
        network: descriptor of the network namespace, or None.
        inherited: CRIU's name of something outside to the descriptor that takes its place.
    """

    root: str
    masked: str
    binds: Mapping[str, str] = field(default_factory=dict)
    cgroup: Mapping[str, str] = field(default_factory=dict)
    cgroup_paths: tuple[CgroupPath, ...] = ()
    network: int | None = None
    inherited: Mapping[str, int] = field(default_factory=dict)


def network_mode(facts: Facts, request: Request) -> Literal["external", "image", "empty", "host"]:
    """Return what becomes of the network namespace.

    One that was joined comes from outside again; one of the container's own is in the
    image, unless somebody who makes it anew asks for external.
    """
    if facts.network.kind == "host":
        return "host"
    if request.network is not None:
        return request.network
    return "external" if facts.network.kind == "joined" else "image"


def network_lock(facts: Facts, request: Request) -> NetworkLock:
    """Return how packets are kept away while the container is frozen.

    Nothing needs to be kept away where no packet can come: in a namespace of its own
    with only lo, and nobody connected over that.
    """
    if request.network_lock is not None:
        return request.network_lock
    is_alone = facts.network.kind == "own" and facts.network.only_loopback
    return "skip" if is_alone and not facts.connections else "nftables"


def cgroup_mode(facts: Facts, request: Request) -> CgroupMode:
    """Return who makes control groups: we, for the container's own; CRIU, those below it."""
    if request.cgroup_mode is not None:
        return request.cgroup_mode
    return "soft" if facts.has_nested_cgroups else "ignore"


def dump_options(facts: Facts, request: Request) -> dict[str, Any]:
    """Return the fields of `criu_opts` for a dump, without descriptors and paths."""
    ext_unix_sk = request.ext_unix_sk
    options: dict[str, Any] = {
        "pid": facts.pid,
        "root": facts.rootfs,
        "leave_running": request.leave_running,
        "link_remap": _derived(request.link_remap, derived=facts.has_remapped_links),
        "ext_unix_sk": _derived(ext_unix_sk, derived=bool(facts.host_unix_sockets)),
        "ghost_limit": min(facts.ghost_bytes + _GHOST_LIMIT_SLACK_BYTES, _UINT32_MAX),
        "tcp_skip_in_flight": request.tcp_skip_in_flight,
        "timeout": request.timeout_seconds,
        "external": [f"mnt[{mount.destination}]:{mount.destination}" for mount in facts.mounts],
        **_common(facts, request),
    }
    options["external"] += [each.key for each in facts.stdio if each.kind != "pipe"]
    if network_mode(facts, request) == "external":
        options["external"].append(f"net[{facts.network.inode}]:{NETWORK_KEY}")
    return options


def restore_options(facts: Facts, target: Target, request: Request) -> dict[str, Any]:
    """Return the fields of `criu_opts` for a restore, without the image directory.

    Raises:
        UsageError: something the container had outside has no counterpart here; the
            message names it.
    """
    ext_unix_sk = request.ext_unix_sk
    options: dict[str, Any] = {
        "root": target.root,
        "rst_sibling": True,
        "ext_unix_sk": _derived(ext_unix_sk, derived=bool(facts.host_unix_sockets)),
        "auto_dedup": request.auto_dedup,
        "external": [f"mnt[{each.destination}]:{_place(each, target)}" for each in facts.mounts],
        "inherit_fd": [],
        **_common(facts, request),
    }
    for each in facts.stdio:
        if each.key in target.inherited:
            options["inherit_fd"].append((each.key, target.inherited[each.key]))
        elif each.kind != "pipe":
            raise UsageError(
                f"{each.path} was open outside the container and has no counterpart here",
                "Give the restored container standard streams, or make the file.",
            )
    if network_mode(facts, request) == "external":
        if target.network is None:
            raise UsageError("no network namespace is given for the restored container")
        options["inherit_fd"].append((NETWORK_KEY, target.network))
    # Rewriting makes CRIU put a first process that lives below the container's group into
    # that group itself, so it is only asked for where the place is another one.
    if cgroup_mode(facts, request) != "ignore" and target.cgroup_paths != facts.cgroup:
        options["cg_root"] = [(each.controller, each.path) for each in target.cgroup_paths]
    if request.lsm_profile:
        options["lsm_profile"] = request.lsm_profile
    if request.lsm_mount_context:
        options["lsm_mount_context"] = request.lsm_mount_context
    return options


def apply(options: Mapping[str, Any], message: Any) -> None:
    """Write the fields into a `criu_opts` message."""
    from pycriu import rpc

    enums = {"manage_cgroups_mode": rpc.criu_cg_mode, "network_lock": rpc.criu_network_lock_method}
    for name, value in options.items():
        if name == "inherit_fd":
            for key, descriptor in value:
                message.inherit_fd.add(key=key, fd=descriptor)
        elif name == "cg_root":
            for controller, path in value:
                message.cg_root.add(ctrl=controller, path=path)
        elif name == "external":
            message.external.extend(value)
        else:
            setattr(message, name, enums[name].Value(value) if name in enums else value)


def _common(facts: Facts, request: Request) -> dict[str, Any]:
    """Return what dump and restore must agree on."""
    options: dict[str, Any] = {
        "log_level": request.log_level,
        "notify_scripts": True,
        "lazy_pages": request.lazy_pages,
        "tcp_established": _derived(request.tcp_established, derived=not request.tcp_close),
        "tcp_close": request.tcp_close,
        "shell_job": request.shell_job,
        "file_locks": _derived(request.file_locks, derived=True),
        # A device node may have another number or path here; the same path will do.
        "evasive_devices": True,
        "orphan_pts_master": facts.terminal,
        "manage_cgroups_mode": CGROUP_MODES[cgroup_mode(facts, request)],
        "network_lock": network_lock(facts, request).upper(),
    }
    if network_mode(facts, request) == "empty":
        options["empty_ns"] = _CLONE_NEWNET
    return options


def _derived(asked: bool | None, *, derived: bool) -> bool:  # noqa: FBT001 - a tristate
    """Return what was asked, or else what follows from the container."""
    return derived if asked is None else asked


def _place(mount: Mount, target: Target) -> str:
    """Return the host path that becomes a mount of the restored container."""
    if mount.kind == "null":
        return "/dev/null"
    if mount.kind == "masked":
        return target.masked
    if mount.kind == "device" and _is_below_dev(mount.destination):
        return mount.destination
    if mount.kind == "cgroup":
        return _cgroup_directory(mount, target)
    place = target.binds.get(mount.destination)
    if place is None:
        raise UsageError(
            f"mount {mount.destination} (from {mount.source}) has no source here",
            "Add it to config.json as a bind mount.",
        )
    return place


def _is_below_dev(path: str) -> bool:
    """Tell whether a path that may come from another host is in /dev."""
    return path.startswith("/dev/") and ".." not in path.split("/")


def _cgroup_directory(mount: Mount, target: Target) -> str:
    """Return the new container's own directory in the tree that was mounted there."""
    wanted = set(mount.controller.split(","))
    for key, directory in target.cgroup.items():
        if wanted == set(key.split(",")):
            return directory
    raise UsageError(
        f"mount {mount.destination} shows control groups of {mount.controller or 'v2'}, "
        "which this host does not have",
        "Restore on a host with the same layout of control groups.",
    )
