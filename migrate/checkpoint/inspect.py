"""Finding out what a container is, before it is frozen or in its freeze.

Lives here: from a record, its config and /proc to `facts.Facts`. Must not live here:
single files of /proc (`procfs`), what CRIU is told for it (`options`). May be
imported by `checkpoint`, `live` and `cli`.

What is found may change until the freeze. So nothing here is the only protection: an
option that costs nothing is always set (`options`), and CRIU refuses what it cannot do.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from migrate.checkpoint import endpoints, netns, procfs, settings
from migrate.checkpoint.descriptors import Descriptors, read_descriptors
from migrate.checkpoint.facts import (
    CgroupPath,
    Connection,
    Facts,
    Mount,
    NetworkNamespace,
    Obstacle,
    Process,
)
from migrate.errors import StateError

_CGROUP_FSTYPES = ("cgroup", "cgroup2")
# File systems that CRIU makes anew (criu/filesystems.c): views of the kernel, and those
# whose content is in the image where they are the container's own.
_VIEW_FSTYPES = frozenset(
    (
        *("proc", "sysfs", "mqueue", "binfmt_misc", "debugfs", "tracefs", "securityfs"),
        *("pstore", "fusectl", "configfs", "bpf"),
    )
)
_OWN_FSTYPES = frozenset(("tmpfs", "devpts", "devtmpfs"))
_CGROUP_FLAGS = frozenset(
    (
        *("rw", "ro", "xattr", "clone_children", "noprefix", "seclabel"),
        *("cpuset_v2_mode", "favordynmods"),
    )
)
_SYSTEM_V = "/SYSV"
_UNCARRIED_MAPPINGS = ("anon_inode:[io_uring", "/dev/kvm", "/dev/dri/", "/dev/nvidia")
_CLOSED_STATES = frozenset(("LISTEN", "UNCONN", "TIME-WAIT"))


def inspect(record: Mapping[str, Any], spec: Mapping[str, Any]) -> Facts:
    """Return what the container of a record is.

    Args:
        record: of `runtime.state`.
        spec: its decoded config.json.

    Raises:
        StateError: its first process is gone.
    """
    pid = record["pid"]
    try:
        return _inspect(pid, record, spec)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise StateError(
            f"container {record['id']} ended while it was looked at ({error.filename})",
            "Look at its exit status with `migrate state`.",
        ) from None


def _inspect(pid: int, record: Mapping[str, Any], spec: Mapping[str, Any]) -> Facts:
    """Return the facts; what ends meanwhile raises."""
    processes = tuple(_processes(procfs.tree(pid)))
    pids = [each.pid for each in processes]
    names = {each.pid: f"{each.inner_pid} ({each.command})" for each in processes}
    mounts, mount_obstacles = _mounts(pid, spec, record["bundle"])
    descriptors = read_descriptors(pids, names)
    namespace, unix = _network(pid, spec)
    connections = _connections(pid, descriptors, names)
    host_sockets, socket_obstacles = _host_sockets(unix, descriptors, names)
    return Facts(
        container_id=record["id"],
        pid=pid,
        rootfs=record["rootfs"],
        terminal=bool(record["terminal"]),
        cgroup_namespace=_is_own(pid, "cgroup"),
        has_nested_cgroups=_has_nested_cgroups(record["cgroup"]),
        user_namespace=_is_own(pid, "user"),
        network=namespace,
        cgroup=cgroup_paths(record["cgroup"]),
        mounts=mounts,
        stdio=descriptors.stdio,
        connections=connections,
        host_unix_sockets=host_sockets,
        file_locks=_locks(names),
        ghost_bytes=descriptors.ghost_bytes,
        has_remapped_links=descriptors.has_remapped_links,
        processes=processes,
        memory_bytes=sum(each.memory_bytes for each in processes),
        obstacles=(
            *mount_obstacles,
            *settings.obstacles(spec),
            *descriptors.obstacles,
            *endpoints.obstacles(descriptors.socket_numbers, names),
            *socket_obstacles,
            *_strangers(record["cgroup"], pids),
            *_mapped(pids, names),
            *_inner_namespaces(pids, names),
            *_of_others(pids, names),
        ),
    )


def _processes(pids: Iterable[int]) -> Iterator[Process]:
    """Yield the numbers of each process; those that end meanwhile are left out."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield _process(pid, procfs.status(pid))


def _process(pid: int, status: Mapping[str, str]) -> Process:
    """Return one process's numbers out of its status file."""
    kilobytes = sum(
        int(status.get(field, "0 kB").split()[0]) for field in ("RssAnon", "RssShmem", "VmSwap")
    )
    return Process(
        pid=pid,
        inner_pid=int(status["NSpid"].split()[-1]),
        command=status["Name"],
        threads=int(status["Threads"]),
        uid=int(status["Uid"].split()[1]),
        memory_bytes=kilobytes << 10,
    )


def _mounts(
    pid: int, spec: Mapping[str, Any], bundle: str
) -> tuple[tuple[Mount, ...], list[Obstacle]]:
    """Return the mounts CRIU must be given, and those nobody can give."""
    lines = procfs.mounts(pid)
    masked = set(spec.get("linux", {}).get("maskedPaths") or ())
    sources = binds(spec, bundle)
    host = procfs.mounts("self")
    own_devices = {line.device for line in lines if _is_made_inside(line, host)}
    found, obstacles = [], []
    for line in lines:
        point = line.point
        if point == "/" or line.parent_id == line.mount_id:
            continue
        if point not in masked and (source := bind_source(point, sources)) is not None:
            found.append(Mount(destination=point, kind="bind", source=source))
        elif line.fstype in _CGROUP_FSTYPES:
            found.append(Mount(destination=point, kind="cgroup", controller=_controller(line)))
        elif point in masked and line.root != "/":
            if line.device in own_devices:
                continue  # a bind of the container's own /dev/null, which CRIU makes anew
            found.append(Mount(destination=point, kind="null"))
        elif point in masked:
            found.append(Mount(destination=point, kind="masked"))
        elif line.device in own_devices:
            continue
        elif _is_device(pid, point):
            found.append(Mount(destination=point, kind="device"))
        elif (source := _host_path(line, host)) is not None:
            found.append(Mount(destination=point, kind="bind", source=source))
        else:
            obstacles.append(
                Obstacle(
                    verdict="refuse",
                    what=f"mount {point} of type {line.fstype} was made inside the container",
                    hint="Unmount it first, or mount it by config.json as a bind mount.",
                )
            )
    return tuple(found), obstacles


def _is_made_inside(line: procfs.MountLine, host: list[procfs.MountLine]) -> bool:
    """Tell whether CRIU makes this file system anew."""
    return line.fstype in _VIEW_FSTYPES or (
        line.fstype in _OWN_FSTYPES and all(line.device != each.device for each in host)
    )


def _is_device(pid: int, point: str) -> bool:
    """Tell whether a mount is a device node below /dev."""
    if not point.startswith("/dev/"):
        return False
    mode = os.stat(f"/proc/{pid}/root{point}").st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _controller(line: procfs.MountLine) -> str:
    """Return the key of `runtime.cgroup` for a control group mount."""
    if line.fstype == "cgroup2":
        return ""
    kept = (
        option
        for option in line.super_options
        if option not in _CGROUP_FLAGS and not option.startswith("release_agent=")
    )
    return ",".join(kept)


def binds(spec: Mapping[str, Any], bundle: str) -> dict[str, str]:
    """Return the bind mounts of config.json, destination to source."""
    found = {}
    for mount in spec.get("mounts") or ():
        options = mount.get("options") or ()
        if "remount" in options:
            continue  # it mounts nothing, and has no source
        if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
            found[os.path.normpath("/" + mount["destination"].lstrip("/"))] = os.path.join(
                bundle, mount["source"]
            )
    return found


def bind_source(point: str, sources: Mapping[str, str]) -> str | None:
    """Return the host's path of a bind mount, or of one that came along below it."""
    at = point
    while at != "/":
        if at in sources:
            return sources[at] + point[len(at) :]
        at = os.path.dirname(at)
    return None


def _host_path(line: procfs.MountLine, host: list[procfs.MountLine]) -> str | None:
    """Return where on the host the content of a mount is."""
    for each in reversed(host):
        if each.device == line.device and (
            line.root == each.root or line.root.startswith(each.root.rstrip("/") + "/")
        ):
            inside = line.root[len(each.root.rstrip("/")) :]
            return each.point.rstrip("/") + inside or "/"
    return None


def _host_sockets(
    unix: Mapping[int, netns.UnixSocket], descriptors: Descriptors, names: Mapping[int, str]
) -> tuple[tuple[str, ...], list[Obstacle]]:
    """Return the UNIX sockets that lead outside: those CRIU connects again, and the rest."""
    found, obstacles = [], []
    for inode, owner in descriptors.sockets.items():
        here = unix.get(inode)
        if here is None or not here.peer or here.peer in descriptors.sockets:
            continue
        peer = unix.get(here.peer)
        name = peer.name if peer and peer.name else "a UNIX socket outside"
        if here.is_datagram and peer is not None and _is_reachable(owner, peer.name):
            found.append(f"{name}, process {names[owner]}")
            continue
        obstacles.append(
            Obstacle(
                verdict="refuse",
                what=f"process {names[owner]} is connected to {name}",
                hint="Close that connection first: only datagram sockets of the same network "
                "namespace, under the same path inside, can be taken up again.",
            )
        )
    return tuple(found), obstacles


def _is_reachable(pid: int, name: str) -> bool:
    """Tell whether a process finds a socket under the name it is bound to."""
    return name.startswith("@") or os.path.exists(f"/proc/{pid}/root{name}")


def _network(
    pid: int, spec: Mapping[str, Any]
) -> tuple[NetworkNamespace, dict[int, netns.UnixSocket]]:
    """Return the network namespace, and its UNIX sockets."""
    inode = os.stat(f"/proc/{pid}/ns/net").st_ino
    entries = spec.get("linux", {}).get("namespaces") or ()
    joined = next((each.get("path", "") for each in entries if each["type"] == "network"), "")
    kind: Literal["own", "joined", "host"] = (
        "joined" if joined else "own" if _is_own(pid, "net") else "host"
    )
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        links, unix = netns.inside(descriptor, lambda: (netns.interfaces(), netns.unix_sockets()))
    finally:
        os.close(descriptor)
    return (
        NetworkNamespace(
            inode=inode,
            kind=kind,
            path=joined,
            only_loopback=links.keys() <= {"lo"},
            loopback_is_up=links.get("lo", False),
        ),
        unix,
    )


def _connections(
    pid: int, descriptors: Descriptors, names: Mapping[int, str]
) -> tuple[Connection, ...]:
    """Return the TCP connections that the container's processes hold."""
    return tuple(
        Connection(
            local=each.local,
            remote=each.remote,
            state=each.state,
            is_loopback=each.is_loopback,
            process=names[descriptors.sockets[each.inode]],
        )
        for each in procfs.tcp_sockets(pid)
        if each.state not in _CLOSED_STATES and each.inode in descriptors.sockets
    )


def _locks(names: Mapping[int, str]) -> tuple[str, ...]:
    """Return the file locks of the container's processes, in words."""
    return tuple(
        f"{kind} lock on inode {where}, process {names[pid]}"
        for pid, kind, where in procfs.locks()
        if pid in names
    )


def _strangers(cgroup: Mapping[str, str], pids: Iterable[int]) -> list[Obstacle]:
    """Return the processes that are in the container but not below its first one."""
    from migrate.runtime import cgroup as groups

    known = set(pids)
    found = []
    for pid in groups.procs(cgroup):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if not _descends(pid, known):
                found.append(
                    Obstacle(
                        verdict="warn",
                        what=f"process {pid} ({procfs.status(pid)['Name']}) was started by `exec` "
                        "and stays behind",
                        hint="Start it again afterwards; by `exec --detach`, without a pid file, "
                        "it would go along.",
                    )
                )
    return found


def _descends(pid: int, known: set[int]) -> bool:
    """Tell whether a process is one of the known, or was born below one since."""
    while pid > 1 and pid not in known:
        pid = int(procfs.status(pid)["PPid"])
    return pid in known


def _mapped(pids: Iterable[int], names: Mapping[int, str]) -> list[Obstacle]:
    """Return what is mapped and cannot be carried."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            shares_ipc = not _is_own(pid, "ipc")
            for name in sorted(procfs.mapped_names(pid)):
                if name.startswith(_UNCARRIED_MAPPINGS):
                    hint = "CRIU cannot carry it; turn its use off in the program's configuration."
                elif name.startswith(_SYSTEM_V) and shares_ipc:
                    hint = "It is the host's; give the container an ipc namespace of its own."
                else:
                    continue
                what = f"process {names[pid]} has {name.removeprefix('anon_inode:')} mapped"
                found.append(Obstacle(verdict="refuse", what=what, hint=hint))
    return found


def _inner_namespaces(pids: list[int], names: Mapping[int, str]) -> list[Obstacle]:
    """Return the processes in namespaces below the container's that CRIU cannot make again."""
    found = []
    for kind in ("pid", "user"):
        own = os.stat(f"/proc/{pids[0]}/ns/{kind}").st_ino
        for pid in pids[1:]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.stat(f"/proc/{pid}/ns/{kind}").st_ino != own:
                    found.append(
                        Obstacle(
                            verdict="refuse",
                            what=f"process {names[pid]} is in a {kind} namespace of its own",
                            hint="CRIU carries one level of them; end what runs in it first.",
                        )
                    )
                    break
    return found


def _of_others(pids: Iterable[int], names: Mapping[int, str]) -> list[Obstacle]:
    """Return the processes of other users whose limits CRIU may not read, see prlimit(2)."""
    found = []
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_CPU)
        except ProcessLookupError:
            continue
        except PermissionError:
            found.append(
                Obstacle(
                    verdict="refuse",
                    what=f"process {names[pid]} is another user's, and CAP_SYS_RESOURCE is missing",
                    hint="Run it as root or in a user namespace, or get the capability.",
                )
            )
    return found


def cgroup_paths(cgroup: Mapping[str, str]) -> tuple[CgroupPath, ...]:
    """Return each control group's path below the root of its tree.

    Args:
        cgroup: as in a record: key to directory.
    """
    found = []
    for key, directory in sorted(cgroup.items()):
        top = directory
        while not os.path.ismount(top):
            top = os.path.dirname(top)
        found.append(CgroupPath(controller=key, path=directory[len(top.rstrip("/")) :] or "/"))
    return tuple(found)


def _has_nested_cgroups(cgroup: Mapping[str, str]) -> bool:
    """Tell whether groups were made below the container's own."""
    for directory in cgroup.values():
        try:
            with os.scandir(directory) as entries:
                if any(entry.is_dir(follow_symlinks=False) for entry in entries):
                    return True
        except FileNotFoundError:
            continue
    return False


def _is_own(pid: int, kind: str) -> bool:
    """Tell whether a process's namespace is another than this one's."""
    theirs = os.stat(f"/proc/{pid}/ns/{kind}")
    return theirs.st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino
