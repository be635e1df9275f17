"""What must be there before CRIU can restore a container, and is gone after it.

Lives here: the root and its mount points, an empty directory for what is masked, a
network namespace, and what takes the place of descriptors that led outside. Must not
live here: CRIU's options for them (`options`), control groups and the record
(`container`, `live`). May be imported by `checkpoint` and `live`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from migrate.checkpoint import netns, options
from migrate.checkpoint.facts import Facts, Stdio
from migrate.checkpoint.inspect import bind_source, binds, cgroup_paths
from migrate.checkpoint.options import Request, Target
from migrate.checkpoint.session import Place
from migrate.errors import UsageError
from migrate.runtime.rootfs_for_restore import restore_root
from migrate.runtime.spec.validation import rootfs_path

_FIRST_FREE_DESCRIPTOR = 10
_OPEN_PARENT = "/run"


@contextlib.contextmanager
def prepared(  # noqa: PLR0913 - each is a thing of its own
    spec: Any,
    bundle: str,
    facts: Facts,
    request: Request,
    *,
    cgroup: Mapping[str, str],
    work: str,
    network: int | None = None,
    has_streams: bool = False,
    files: Mapping[int, str] = MappingProxyType({}),
) -> Iterator[tuple[Place, Target]]:
    """Yield where CRIU shall live and what it is given; keep it until it has ended.

    Args:
        spec: decoded config.json of the restored container.
        bundle: absolute path on this host; may be another than at the checkpoint.
        cgroup: of the restored container; made already.
        work: directory for the two mount points, in which nothing is left.
        network: the namespace, where the caller made one; else it is joined or made as
            config.json and the facts say.
        has_streams: this process's standard descriptors become the container's; without
            it they become /dev/null.
        files: paths on this host that take the place of standard descriptors instead.

    Raises:
        UsageError: something the container had open outside is not here.
        StageError, KernelError: a mount point cannot be made.
    """
    with contextlib.ExitStack() as stack:
        # Entered and left: what stays are the mount points it made in the rootfs. CRIU
        # mounts the rootfs once more in a namespace of its own, which cannot be left over.
        with restore_root(spec, bundle, work):
            pass
        rootfs = rootfs_path(spec, bundle)
        _make_tmp(stack, rootfs)
        points = _open_folder(stack) if facts.user_namespace else work
        place = Place(
            rootfs=rootfs,
            root=_folder(stack, f"{points}/root"),
            masked=_folder(stack, f"{points}/masked"),
            cgroup_procs=_procs_files(cgroup),
            cgroup_namespace=_cgroup_namespace(spec, facts, request),
            images_group=_mapped_group(spec) if facts.user_namespace else None,
        )
        if network is None and options.network_mode(facts, request) == "external":
            network = _network(spec, facts)
            stack.callback(os.close, network)
        sources = binds(spec, bundle)
        target = Target(
            root=place.root,
            masked=place.masked,
            binds={
                mount.destination: source
                for mount in facts.mounts
                if (source := bind_source(mount.destination, sources)) is not None
            },
            cgroup_paths=cgroup_paths(cgroup),
            cgroup=cgroup,
            network=network,
            inherited={
                each.key: _counterpart(stack, each, files, has_streams=has_streams)
                for each in facts.stdio
            },
        )
        yield place, target


def _make_tmp(stack: contextlib.ExitStack, rootfs: str) -> None:
    """Lend the rootfs a /tmp for as long as the restore takes, where it has none.

    CRIU puts the old root there when it pivots (criu/mount.c, cr_pivot_root), and would
    make a directory in its place, which a read-only root does not allow.
    """
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, root)
    try:
        os.mkdir("tmp", 0o700, dir_fd=root)
    except OSError:
        return  # it has one; or cannot have one, which CRIU then says
    stack.callback(_remove_tmp, root)


def _remove_tmp(root: int) -> None:
    """Remove the /tmp that was lent; one that is in use by now stays."""
    with contextlib.suppress(OSError):
        os.rmdir("tmp", dir_fd=root)


def _open_folder(stack: contextlib.ExitStack) -> str:
    """Return a new directory that a CRIU within a user namespace can look into."""
    path = tempfile.mkdtemp(prefix="migrate-restore-", dir=_OPEN_PARENT)
    os.chmod(path, 0o711)  # noqa: S103 - to go through, not to list
    stack.callback(os.rmdir, path)
    return path


def _folder(stack: contextlib.ExitStack, path: str) -> str:
    """Make a mount point that is removed at the end."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    stack.callback(_remove_folder, path)
    return path


def _remove_folder(path: str) -> None:
    """Remove a mount point; one that is gone with its parent is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _procs_files(cgroup: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files by which a process joins each control group once."""
    return tuple(f"{path}/cgroup.procs" for path in dict.fromkeys(cgroup.values()))


def _cgroup_namespace(spec: Any, facts: Facts, request: Request) -> str:
    """Return what `session.Place` shall do about the control group namespace."""
    if not facts.cgroup_namespace or options.cgroup_mode(facts, request) != "ignore":
        return ""  # CRIU restores it itself where it minds control groups
    return _namespace_path(spec, "cgroup") or "new"


def _mapped_group(spec: Any) -> int | None:
    """Return the host's number of the group that is 0 in the container."""
    for each in spec.get("linux", {}).get("gidMappings", ()):
        if each["containerID"] == 0:
            return int(each["hostID"])
    return None


def _network(spec: Any, facts: Facts) -> int:
    """Return the network namespace that config.json names, or a fresh one."""
    path = _namespace_path(spec, "network")
    if not path:
        return netns.fresh(loopback_is_up=facts.network.loopback_is_up)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"network namespace {path}: {str(error.strerror).lower()}",
            "Make it before the container is restored.",
        ) from None


def _namespace_path(spec: Any, kind: str) -> str:
    """Return where config.json says to join a namespace, or ""."""
    for each in spec.get("linux", {}).get("namespaces", ()):
        if each["type"] == kind:
            return str(each.get("path", ""))
    return ""


def _counterpart(
    stack: contextlib.ExitStack, each: Stdio, files: Mapping[int, str], *, has_streams: bool
) -> int:
    """Return the descriptor that takes the place of one that led outside."""
    if each.descriptor in files:
        descriptor = _appended(files[each.descriptor])
    elif has_streams and each.descriptor >= 0:
        # CRIU has standard descriptors of its own, so the container's need other numbers.
        descriptor = fcntl.fcntl(each.descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_DESCRIPTOR)
    elif has_streams and each.kind == "file":
        descriptor = _reopened(each)
    else:
        descriptor = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _appended(path: str) -> int:
    """Return a log file of this host, made where it is not there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o640)
    except OSError as error:
        raise UsageError(
            f"file {path}, for the container's output: {str(error.strerror).lower()}",
            "Make its directory, or name another file.",
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"file {path}, for the container's output, is not a regular file")
    os.set_blocking(descriptor, True)
    return descriptor


def _reopened(each: Stdio) -> int:
    """Return a file of the host, opened as it was."""
    try:
        descriptor = os.open(each.path, each.flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(
            f"file {each.path}, open outside the container: {str(error.strerror).lower()}",
            "Make the file, or start the container without it.",
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"file {each.path}, open outside the container, is not a regular file")
    return descriptor
