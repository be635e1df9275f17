"""Extended attributes, owners, modes and times of one file, by descriptor.

Lives here: which extended attributes travel, and the order in which what
surrounds a file's content is set. Must not live here: content, trees, bytes on
the wire. `migrate.live.filesystem` only.

The order is the kernel's: chown(2) clears set-user-id bits and file
capabilities, so the owner comes first, then the extended attributes, then the
mode, and the time last of all.
"""

from __future__ import annotations

import errno
import os
import stat

# What describes the file goes along. security.selinux, security.ima and
# security.evm are the host's own; trusted.overlay.* tells one overlay file system
# about itself; system.* other than access lists belongs to the file system.
_CARRIED_PREFIXES = ("user.", "trusted.")
_CARRIED = frozenset({"security.capability", "system.posix_acl_access", "system.posix_acl_default"})
_LEFT_PREFIXES = ("trusted.overlay.",)

# No attributes at all on this file system, or (ENODATA) gone meanwhile.
_NONE_THERE = frozenset({errno.ENOTSUP, errno.ENODATA, errno.ENOENT, errno.ENOSYS})

Xattrs = dict[str, bytes]


def is_carried(name: str) -> bool:
    """Whether the extended attribute of that name travels with its file."""
    return name in _CARRIED or (
        name.startswith(_CARRIED_PREFIXES) and not name.startswith(_LEFT_PREFIXES)
    )


def by_name(directory_fd: int, name: str) -> str:
    """A path that means `name` in the directory of a descriptor; its last part may be a link."""
    return f"/proc/self/fd/{directory_fd}/{name}"


def read_xattrs(directory_fd: int, name: str) -> Xattrs:
    """Return the extended attributes of a file that travel; the file is not followed."""
    path = by_name(directory_fd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NONE_THERE:
            return {}
        raise
    found: Xattrs = {}
    for attribute in names:
        if is_carried(attribute):
            try:
                found[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NONE_THERE:
                    raise
    return found


def _set_xattrs(path: str | int, wanted: Xattrs, *, follow: bool) -> None:
    try:
        present = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _NONE_THERE:
            raise
        present = []
    for attribute in present:
        if attribute not in wanted and is_carried(attribute):
            os.removexattr(path, attribute, follow_symlinks=follow)
    for attribute, value in wanted.items():
        os.setxattr(path, attribute, value, follow_symlinks=follow)


def apply_by_fd(
    fd: int, *, mode: int, uid: int, gid: int, mtime_ns: int, xattrs: Xattrs, fresh: bool
) -> None:
    """Give an open file or directory its owner, attributes, mode and time.

    Args:
        fd: opened for reading or writing, not O_PATH.
        mode: st_mode; its permission bits are used.
        uid: numeric owner.
        gid: numeric group.
        mtime_ns: time of the last change; the access time becomes the same.
        xattrs: the extended attributes it shall have.
        fresh: made just now, so that it has no attributes that must go.
    """
    os.fchown(fd, uid, gid)
    if xattrs or not fresh:
        _set_xattrs(fd, xattrs, follow=True)
    os.fchmod(fd, stat.S_IMODE(mode))
    os.utime(fd, ns=(mtime_ns, mtime_ns))


def apply_by_name(
    directory_fd: int,
    name: str,
    *,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    xattrs: Xattrs,
) -> None:
    """The same for what must not be opened: links, devices, FIFOs and sockets."""
    os.chown(name, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
    _set_xattrs(by_name(directory_fd, name), xattrs, follow=False)
    if not stat.S_ISLNK(mode):
        # fchmodat has no nofollow before Linux 6.6: change the mode of what an
        # O_PATH descriptor holds.
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFMT(mode):
                raise OSError(errno.EINVAL, "is of another type than it was", name)
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(mode))
        finally:
            os.close(fd)
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory_fd, follow_symlinks=False)
