"""Bind mounts that show other owners than their source has.

Lives here: the detached copy of a tree with an id map, made on the host's side, whose
privileges it takes. Must not live here: what may be asked for (`spec.mounting`), and
attaching it (`init.mounts`). Imported by `launch` where a mount asks for it. See
mount_setattr(2), "ID mapped mounts".
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime import idmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import IdMapping, Mount

_EINVAL = 22


def give_map(tree: int, mount: Mount, pid: int) -> None:
    """Map the ids of a detached copy of a mount's source.

    Args:
        tree: descriptor of the copy; nothing has been attached or opened in it yet.
        mount: valid; without mappings of its own it has those of the container.
        pid: a process in the container's user namespace.

    Raises:
        StageError: the file system, or the kernel, has no id-mapped mounts.
    """
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if uids and gids:
        namespace = _namespace(uids, gids)
    else:
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.mount_setattr(
            tree,
            attr_set=syscalls.MOUNT_ATTR_IDMAP,
            recursive="ridmap" in mount.get("options", []),
            userns_fd=namespace,
        )
    except KernelError as error:
        raise StageError(
            f"cannot map the ids of {mount.get('source')} for {mount['destination']}: "
            f"{os.strerror(error.errno).lower()}",
            "Its file system must know id-mapped mounts, and not be id-mapped already."
            if error.errno == _EINVAL
            else "",
        ) from None
    finally:
        os.close(namespace)


def _namespace(uids: list[IdMapping], gids: list[IdMapping]) -> int:
    """A user namespace with a map and nobody in it, which is how the kernel takes a map.

    A child makes it, says so, and waits until the map is written and the descriptor open.
    """
    ours, theirs = os.pipe()
    wait_read, wait_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(wait_write)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(theirs, b"1")
            os.read(wait_read, 1)
        finally:
            os._exit(0)
    try:
        os.close(theirs)
        os.close(wait_read)
        if not os.read(ours, 1):
            raise StageError(
                "cannot make a user namespace for an id-mapped mount",
                "Raise /proc/sys/user/max_user_namespaces.",
            )
        idmaps.write(child, {"uidMappings": uids, "gidMappings": gids})
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ours)
        os.close(wait_write)
        os.waitpid(child, 0)
