"""A root file system as CRIU wants it at restore.

Lives here: a private mount of the rootfs on a directory of its own, with the mount
points of the configuration's mounts made in it. Must not live here: anything of
CRIU. May be imported by `checkpoint`.

CRIU makes the mounts of the images anew below the root it is given, so their
mount points must be there; and the root must be a mount whose parent is not
shared, since it becomes the root of a mount namespace by pivot_root.
"""

from __future__ import annotations

import os
import stat
import tempfile

from migrate import syscalls
from migrate.runtime.init.rootfs import Root
from migrate.runtime.spec import mountoptions
from migrate.runtime.spec.validation import normal_destination, rootfs_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from migrate.runtime.spec.model import Mount, Spec


class RestoreRoot:
    """The mount, as a context manager; made by `restore_root`."""

    def __init__(self, spec: Spec, bundle: str, parent: str | None) -> None:
        self._spec = spec
        self._bundle = os.path.abspath(bundle)
        self._parent = parent
        self._path = ""
        self._attached = 0

    def __enter__(self) -> str:
        """Attach the mount and return where it is.

        Raises:
            KernelError: the rootfs cannot be mounted there.
            StageError: a mount point cannot be made.
        """
        self._path = tempfile.mkdtemp(prefix="migrate-root-", dir=self._parent)
        try:
            tree = self._attach()
            try:
                self._make_mount_points(Root(tree, -1))
            finally:
                os.close(tree)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self._path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Detach it; the restored container has its own copy by then."""
        while self._attached:
            syscalls.umount2(self._path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
            self._attached -= 1
        os.rmdir(self._path)

    def _attach(self) -> int:
        """Put the rootfs on the directory, over a mount that propagates to nobody."""
        directory = os.open(self._path, syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH
        own = syscalls.open_tree(directory, b"", flags)
        os.close(directory)
        syscalls.mount_setattr(own, propagation=syscalls.MS_PRIVATE)
        syscalls.move_mount(own, syscalls.AT_FDCWD, self._path)
        self._attached = 1
        rootfs = rootfs_path(self._spec, self._bundle)
        tree = syscalls.open_tree(
            syscalls.AT_FDCWD, rootfs, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
        )
        syscalls.mount_setattr(tree, propagation=syscalls.MS_PRIVATE, recursive=True)
        syscalls.move_mount(tree, own)
        self._attached = 2
        os.close(own)
        return tree

    def _make_mount_points(self, root: Root) -> None:
        """Make what is missing, in mounted order.

        A mount point inside a file system of the container's own is in the images;
        one inside a bind mount has to be made in the bind's source, so the binds
        are attached for a moment.
        """
        own: list[str] = []
        attached: list[str] = []
        for mount in self._spec.get("mounts", []):
            if "remount" in mount.get("options", []):
                continue  # of what is mounted by another entry
            destination = normal_destination(mount["destination"])
            if any(f"{destination}/".startswith(f"{outer}/") for outer in own):
                continue
            source = self._bind_source(mount)
            is_directory = source is None or os.path.isdir(source)
            target = root.make_target(destination, is_directory=is_directory)
            if source is None:
                own.append(destination)
            elif self._has_inner(destination) and stat.S_ISDIR(os.fstat(target).st_mode):
                tree = syscalls.open_tree(
                    syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
                )
                syscalls.mount_setattr(tree, propagation=syscalls.MS_PRIVATE, recursive=True)
                syscalls.move_mount(tree, target)
                os.close(tree)
                attached.append(destination)
            os.close(target)
        for destination in reversed(attached):
            fd = root.open(destination)
            try:
                syscalls.umount2(f"/proc/self/fd/{fd}", syscalls.MNT_DETACH)
            finally:
                os.close(fd)

    def _has_inner(self, destination: str) -> bool:
        return any(
            normal_destination(mount["destination"]).startswith(f"{destination}/")
            for mount in self._spec.get("mounts", [])
        )

    def _bind_source(self, mount: Mount) -> str | None:
        options = mountoptions.parse(mount.get("options", []), "$.mounts")
        if not options.bind and mount.get("type") != "bind":
            return None
        return os.path.join(self._bundle, mount.get("source", ""))


def restore_root(spec: Spec, bundle: str, parent: str | None = None) -> RestoreRoot:
    """Return a `with` block whose value is the path to give CRIU as root.

    Args:
        spec: decoded configuration.
        bundle: absolute path, on this host.
        parent: directory the mount's own one is made in; the system's temporary
            one where None.
    """
    return RestoreRoot(spec, bundle, parent)
