"""What a tmpfs with tmpcopyup begins with: the content of the directory it covers.

Lives here: copying a tree by descriptors. Must not live here: which mounts ask for it.
Loaded only where one does, before imports end. The image, or whoever shares a volume
with the container, may exchange any name at any moment: each is opened without
following links, and what was opened is what is looked at.
"""

from __future__ import annotations

import os
import stat

from migrate.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.init.context import Context

DEEPEST = 512
_ENOTSUP = 95
_INSIDE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def copy_up(context: Context, destination: str, mount: int, *, keeps_owner: bool) -> None:
    """Fill a detached mount with what is at its destination.

    Args:
        mount: descriptor of the new, empty file system.
        keeps_owner: the options name an owner or a mode of its top, which then stays.

    Raises:
        StageError: the tree cannot be copied, such as for want of room.
    """
    if context.root.try_open(destination) is None:
        return
    source = context.root.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    target = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    try:
        _copy_directory(source, target, 0)
        if not keeps_owner:
            _copy_attributes(source, target)
    except OSError as error:
        raise StageError(
            f"cannot copy the content of {destination} up: {str(error.strerror).lower()}",
            "Raise the tmpfs's option size." if error.errno == 28 else "",
        ) from None
    finally:
        os.close(target)
        os.close(source)


def _copy_directory(source: int, target: int, depth: int) -> None:
    if depth > DEEPEST:
        raise StageError(f"a tree of more than {DEEPEST} levels is not copied up")
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            _copy_opened(name, source, target, os.O_DIRECTORY, depth)
        elif stat.S_ISREG(status.st_mode):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o600, dir_fd=target))
            _copy_opened(name, source, target, 0, depth)
        else:  # a device, FIFO or socket is its name, type and number
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            # mknod(2) took the umask off, which is zero here; chown set-ID bits, which return.
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


def _copy_opened(name: str, source: int, target: int, kind: int, depth: int) -> None:
    """Copy a file or a directory, whose name is made in the target already."""
    inner = os.open(name, os.O_RDONLY | kind | _INSIDE, dir_fd=source)
    try:
        flags = os.O_RDONLY | kind if kind else os.O_WRONLY
        made = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            if kind:
                _copy_directory(inner, made, depth + 1)
            elif stat.S_ISREG(os.fstat(inner).st_mode):
                while os.sendfile(made, inner, None, 1 << 30):
                    pass
            _copy_attributes(inner, made)
        finally:
            os.close(made)
    finally:
        os.close(inner)


def _copy_attributes(source: int, target: int) -> None:
    """Owner first, since a change of it takes set-ID bits and capabilities off."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != _ENOTSUP:  # tmpfs has no room for every kind
                raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
