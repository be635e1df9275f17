"""The mounts of the plan, each made detached and attached by descriptor.

Lives here: one function an operation of the plan. Must not live here: which mounts
there are. No mount is ever made by name: a name of the container can be
exchanged between the check and the use.
"""

from __future__ import annotations

import os
import stat

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime.init import labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from migrate.runtime.init.context import Context

_EPERM = 1
_EACCES = 13

# What is attached there is read by programs that trust it: no link may stand in for it.
EXACT_KINDS = frozenset({"proc", "sysfs", "cgroup", "cgroup2"})


def bind(context: Context, mount: dict[str, Any]) -> None:
    """Attach a copy of a tree of the host's."""
    if mount["id_mapped"] is None:
        tree = _clone_source(context, mount["source"], recursive=mount["recursive"])
    else:
        tree = context.ask_for_tree(
            mount["source"], recursive=mount["recursive"], mount=mount["id_mapped"]
        )
    if mount["destination"] == "/proc" and syscalls.fstatfs(tree) != syscalls.PROC_SUPER_MAGIC:
        raise StageError('"/proc" cannot be mounted because it is not of type "proc"')
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    _shape(tree, mount)
    _attach(context, tree, mount["destination"], is_directory=is_directory)


def filesystem(context: Context, mount: dict[str, Any]) -> None:
    """Attach a new file system."""
    kind, destination = mount["kind"], mount["destination"]
    data = mount["data"]
    if kind == "tmpfs" and not any(key == "mode" for key, _ in data):
        data = [*data, *_mode_of(context, destination)]
    attributes = mount["attr_set"]
    if mount["copies_up"]:
        attributes &= ~syscalls.MOUNT_ATTR_RDONLY  # it is filled first
    fd = make(kind, mount["source"], data, attributes)
    if mount.get("root_label"):
        labels.label_root(fd, mount["root_label"])
    if mount["copies_up"]:
        from migrate.runtime.init import copyup  # loaded by `main`

        named = {"mode", "uid", "gid"} & {key for key, _ in mount["data"]}
        copyup.copy_up(context, destination, fd, keeps_owner=bool(named))
    # Clearing comes second: a new mount has nothing to clear but what the caller's
    # user namespace has locked, and then the refusal says so.
    _shape(fd, {**mount, "attr_set": mount["attr_set"] & ~attributes, "attr_clr": 0})
    _attach(context, fd, destination, is_directory=True, exact=kind in EXACT_KINDS)


def make(kind: str, source: str, data: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """A detached mount of a new file system.

    Raises:
        StageError: with what the file system itself said.
    """
    try:
        context = syscalls.fsopen(kind)
    except KernelError as error:
        if error.errno == 19:  # ENODEV
            raise StageError(f"this kernel has no file system {kind}") from None
        raise
    if source:
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "source", source)
    _configure(context, data)
    syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
    fd = syscalls.fsmount(context, attributes)
    os.close(context)
    return fd


def _configure(context: int, data: list[tuple[str, str | None]]) -> None:
    """Give a file system context the options of a mount."""
    for key, value in data:
        if value is None:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, key)
        elif value:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)


def cgroup_v1(context: Context, mount: dict[str, Any]) -> None:
    """A tmpfs with one directory a hierarchy, as every v1 program expects it.

    With a cgroup namespace each hierarchy is mounted anew, rooted at the
    container's own group; without one the group's directory is bound.
    """
    attributes = mount["attr_set"]
    top = make("tmpfs", "tmpfs", [("mode", "755")], attributes & ~syscalls.MOUNT_ATTR_RDONLY)
    _attach(context, top, mount["destination"], is_directory=True, exact=True, keep=True)
    for name, options, host_path in mount["hierarchies"]:
        os.mkdir(name, 0o755, dir_fd=top)
        if context.plan["cgroup_namespace"]:
            tree = make("cgroup", "cgroup", options, attributes)
        else:
            tree = syscalls.open_tree(syscalls.AT_FDCWD, host_path, syscalls.OPEN_TREE_CLONE)
            syscalls.mount_setattr(tree, attr_set=attributes, propagation=syscalls.MS_PRIVATE)
        syscalls.move_mount(tree, top, name)
        os.close(tree)
    for name, target in mount["links"]:
        os.symlink(target, name, dir_fd=top)
    _shape(top, {**mount, "attr_set": attributes & syscalls.MOUNT_ATTR_RDONLY, "attr_clr": 0})
    os.close(top)


def cgroup_v2(context: Context, mount: dict[str, Any]) -> None:
    """The cgroup2 tree: the namespace's own, else the container's group bound."""
    attributes = mount["attr_set"]
    tree = -1
    if context.plan["cgroup_namespace"]:
        try:
            tree = make("cgroup2", "cgroup", mount["data"], attributes)
        except KernelError as error:
            # A user namespace without privileges over the cgroup namespace binds instead.
            if error.errno not in {_EPERM, 16}:  # EBUSY
                raise
    if tree < 0:
        tree = syscalls.open_tree(
            syscalls.AT_FDCWD,
            mount["host_path"],
            syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE,
        )
        syscalls.mount_setattr(
            tree, attr_set=attributes, propagation=syscalls.MS_PRIVATE, recursive=True
        )
    _shape(tree, {**mount, "attr_set": 0, "attr_clr": 0})
    _attach(context, tree, mount["destination"], is_directory=True, exact=True)


def remount(context: Context, mount: dict[str, Any]) -> None:
    """Give what is mounted at a place other options, see mount(8), "remount".

    What is not named stays as it is. A flag such as "ro" is the mount's alone: the file
    system may be mounted elsewhere too.
    """
    destination = mount["destination"]
    fd = context.root.open(destination)
    if not syscalls.statx_mount(fd)[1]:
        raise StageError(f"nothing is mounted on {destination}")
    _shape(fd, mount)
    if mount["data"]:
        configuration = syscalls.fspick(fd)
        _configure(configuration, mount["data"])
        syscalls.fsconfig(configuration, syscalls.FSCONFIG_CMD_RECONFIGURE)
        os.close(configuration)
    os.close(fd)


def set_attributes(context: Context, destination: str, attributes: int) -> None:
    """Set attributes of the mount at a path, once everything in it is made."""
    fd = context.root.open(destination)
    syscalls.mount_setattr(fd, attr_set=attributes)
    os.close(fd)


def propagate(context: Context, propagation: int, recursive: bool) -> None:  # noqa: FBT001 - the plan's field
    """Give the root, as the container sees it, its propagation."""
    syscalls.mount_setattr(context.root.fd, propagation=propagation, recursive=recursive)


def mask(context: Context, path: str) -> None:
    """Hide a path: a file behind the null device, a directory behind an empty one.

    The null device is the container's own, so that a checkpoint finds nothing of the
    host's in it; that it is the null device, and stays it, is checked on the very
    descriptor that is mounted (CVE-2025-31133).
    """
    target = context.root.try_open(path)
    if target is None:
        return
    if stat.S_ISDIR(os.fstat(target).st_mode):
        if context.empty < 0:
            # One file system for all of them, copied from where it is first put: a mount
            # that is nowhere yet can be copied from Linux 6.15 on only.
            data = [("ro", None), *context.plan["mask_label"]]
            context.empty = make("tmpfs", "tmpfs", data, syscalls.MOUNT_ATTR_RDONLY)
            syscalls.move_mount(context.empty, target)
            os.close(target)
            return
        source = context.empty
    else:
        source = context.null_device()
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH
    tree = syscalls.open_tree(source, b"", flags)
    syscalls.move_mount(tree, target)
    os.close(tree)
    os.close(target)


def read_only(context: Context, path: str) -> None:
    """Cover a path with a read-only view of itself."""
    target = context.root.try_open(path)
    if target is None:
        return
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
    tree = syscalls.open_tree(target, b"", flags)
    syscalls.mount_setattr(tree, attr_set=syscalls.MOUNT_ATTR_RDONLY)
    syscalls.move_mount(tree, target)
    os.close(tree)
    os.close(target)


def _clone_source(context: Context, source: str, *, recursive: bool) -> int:
    """A detached copy of a tree of the host's; asked of the parent where it is out of reach.

    The root of a user namespace may lack the right to walk there; runc's parent
    opens such sources too.
    """
    flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
    try:
        return syscalls.open_tree(syscalls.AT_FDCWD, source, flags)
    except KernelError as error:
        if error.errno == _EACCES and context.plan["in_user_namespace"]:
            return context.ask_for_tree(source, recursive=recursive)
        raise StageError(f"cannot bind {source}: {_reason(error)}") from None


def _reason(error: KernelError) -> str:
    return os.strerror(error.errno).lower()


def _shape(fd: int, mount: dict[str, Any]) -> None:
    """Give a detached mount its attributes and propagation."""
    for suffix, recursive in (("", False), ("rec_", True)):
        attr_set, attr_clr = mount[f"{suffix}attr_set"], mount[f"{suffix}attr_clr"]
        if attr_set or attr_clr:
            try:
                syscalls.mount_setattr(
                    fd, attr_set=attr_set, attr_clr=attr_clr, recursive=recursive
                )
            except KernelError as error:
                raise StageError(
                    f"cannot set the options of {mount['destination']}: {_reason(error)}"
                ) from None
    for propagation, recursive in mount["propagation"]:
        syscalls.mount_setattr(fd, propagation=propagation, recursive=recursive)


def _attach(
    context: Context,
    fd: int,
    destination: str,
    *,
    is_directory: bool,
    exact: bool = False,
    keep: bool = False,
) -> None:
    """Put a detached mount in its place.

    What is resolved must not turn out to be inside procfs, unless the plan's own
    path is: a link in the image would otherwise lay files over what init reads
    (CVE-2019-19921, CVE-2023-27561).
    """
    inside_proc = destination.startswith("/proc/")
    target = context.root.make_target(
        destination, is_directory=is_directory, exact=exact or inside_proc
    )
    if not inside_proc and syscalls.fstatfs(target) == syscalls.PROC_SUPER_MAGIC:
        raise StageError(f"the mount point {destination} leads into procfs")
    try:
        syscalls.move_mount(fd, target)
    except KernelError as error:
        raise StageError(f"cannot mount on {destination}: {_reason(error)}") from None
    os.close(target)
    if not keep:
        os.close(fd)


def _mode_of(context: Context, destination: str) -> list[tuple[str, str | None]]:
    """The mode a tmpfs takes over from the directory it covers, as runc does."""
    fd = context.root.try_open(destination)
    if fd is None:
        return [("mode", "755")]
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.close(fd)
    return [("mode", f"{mode:o}")]


OPERATIONS = {
    "bind": bind,
    "cgroup_v1": cgroup_v1,
    "cgroup_v2": cgroup_v2,
    "filesystem": filesystem,
    "mask": mask,
    "propagate": propagate,
    "read_only": read_only,
    "remount": remount,
    "set_attributes": set_attributes,
}
