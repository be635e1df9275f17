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
# about itself, and goes along with its upper layer only; system.* other than access
# lists belongs to the file system.
_CARRIED_PREFIXES = ("user.", "trusted.")
_CARRIED = frozenset({"security.capability", "system.posix_acl_access", "system.posix_acl_default"})
_OVERLAY_PREFIX = "trusted.overlay."
# What an upper layer says of what it changes in the lower ones. The others (origin,
# impure, nlink, uuid) name inodes of one file system, and mean nothing on another.
_OF_LAYERS = frozenset(
    _OVERLAY_PREFIX + name for name in ("opaque", "redirect", "metacopy", "whiteout", "protattr")
)

# No attributes at all on this file system, or (ENODATA) gone meanwhile.
_NONE_THERE = frozenset({errno.ENOTSUP, errno.ENODATA, errno.ENOENT, errno.ENOSYS})

Xattrs = dict[str, bytes]


def is_carried(name: str, *, layer: bool = False) -> bool:
    """Whether the extended attribute of that name travels with its file.

    Args:
        layer: the file is in the upper layer of an overlay.
    """
    if name.startswith(_OVERLAY_PREFIX):
        return layer and name in _OF_LAYERS
    return name in _CARRIED or name.startswith(_CARRIED_PREFIXES)


def _is_ours(name: str, *, layer: bool) -> bool:
    """Whether it goes from a file here that had it and shall not."""
    return is_carried(name, layer=layer) or (layer and name.startswith(_OVERLAY_PREFIX))


def by_name(directory_fd: int, name: str) -> str:
    """A path that means `name` in the directory of a descriptor; its last part may be a link."""
    return f"/proc/self/fd/{directory_fd}/{name}"


def read_xattrs(directory_fd: int, name: str, *, layer: bool = False) -> Xattrs:
    """Return the extended attributes of a file that travel; the file is not followed.

    Args:
        layer: see `is_carried`.
    """
    path = by_name(directory_fd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NONE_THERE:
            return {}
        raise
    found: Xattrs = {}
    for attribute in names:
        if is_carried(attribute, layer=layer):
            try:
                found[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NONE_THERE:
                    raise
    return found


def _set_xattrs(path: str | int, wanted: Xattrs, *, follow: bool, layer: bool) -> None:
    try:
        present = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _NONE_THERE:
            raise
        present = []
    for attribute in present:
        if attribute not in wanted and _is_ours(attribute, layer=layer):
            os.removexattr(path, attribute, follow_symlinks=follow)
    for attribute, value in wanted.items():
        os.setxattr(path, attribute, value, follow_symlinks=follow)


def apply_by_fd(
    fd: int,
    *,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    xattrs: Xattrs,
    fresh: bool,
    layer: bool = False,
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
        layer: see `is_carried`.
    """
    os.fchown(fd, uid, gid)
    if xattrs or not fresh:
        _set_xattrs(fd, xattrs, follow=True, layer=layer)
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
    layer: bool = False,
) -> None:
    """The same for what must not be opened: links, devices, FIFOs and sockets."""
    os.chown(name, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
    _set_xattrs(by_name(directory_fd, name), xattrs, follow=False, layer=layer)
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
