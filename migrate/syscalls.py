"""Every call into libc and the kernel that the standard library lacks.

Lives here: one function a system call, named as its man page, the constants
it takes, and the single place that turns an error number into a KernelError.
Must not live here: policy, paths, retries. Every room may import it; it
imports `migrate.errors` and the C half of ctypes only.

`_ctypes` is used without its Python half: that saves three milliseconds in
every process of this program (no `struct`, no `ctypes._endian`), and init
needs nothing but calls with integers, byte strings and buffers.
"""

from __future__ import annotations

import os
import sys
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

from migrate.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800

O_PATH = 0o10000000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

CLOSE_RANGE_CLOEXEC = 4

PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
TMPFS_MAGIC = 0x01021994
NSFS_MAGIC = 0x6E736673

STATX_MNT_ID = 0x1000
STATX_ATTR_MOUNT_ROOT = 0x2000

NS_GET_NSTYPE = 0xB703
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCSPTLCK = 0x40045431
TIOCGPTN = 0x80045430
TIOCGPTPEER = 0x5441

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_SETPERM = 5
KEYCTL_DESCRIBE = 6

# Calls without a libc wrapper. Numbers from 424 on are the same on every
# architecture; the older three are not.
_PIDFD_SEND_SIGNAL = 424
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_PIDFD_OPEN = 434
_CLOSE_RANGE = 436
_OPENAT2 = 437
_PIDFD_GETFD = 438
_MOUNT_SETATTR = 442
_GETCWD, _PIVOT_ROOT, _KEYCTL, _RT_SIGACTION = {
    "x86_64": (79, 155, 250, 13),
}.get(os.uname().machine, (17, 41, 219, 134))


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _LongFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


class _IntFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


# Everything is looked up here, at import: after pivot_root a lookup would be a
# file of the container.
_handle = dlopen(None, 0)  # type: ignore[arg-type]
_syscall = _LongFunction(dlsym(_handle, "syscall"))
_capget = _IntFunction(dlsym(_handle, "capget"))
_capset = _IntFunction(dlsym(_handle, "capset"))
_fstatfs = _IntFunction(dlsym(_handle, "fstatfs"))
_getsockopt = _IntFunction(dlsym(_handle, "getsockopt"))
_mount = _IntFunction(dlsym(_handle, "mount"))
_prctl = _IntFunction(dlsym(_handle, "prctl"))
_prlimit = _IntFunction(dlsym(_handle, "prlimit"))
_setdomainname = _IntFunction(dlsym(_handle, "setdomainname"))
_sethostname = _IntFunction(dlsym(_handle, "sethostname"))
_setns = _IntFunction(dlsym(_handle, "setns"))
_statx = _IntFunction(dlsym(_handle, "statx"))
_umount2 = _IntFunction(dlsym(_handle, "umount2"))
_unshare = _IntFunction(dlsym(_handle, "unshare"))


def _pass(value: Any) -> Any:
    """One argument as C takes it: integers are longs, paths byte strings."""
    if isinstance(value, int):
        return _Long(value)
    if isinstance(value, str):
        return os.fsencode(value)
    if isinstance(value, bytearray):
        return (_Char * len(value)).from_buffer(value)
    return value


def _fail(name: str, subject: object) -> NoReturn:
    if isinstance(subject, bytes):
        subject = os.fsdecode(subject)
    raise KernelError(name, str(subject), get_errno())


def _call(function: Any, name: str, subject: object, *args: object) -> int:
    """Call, and raise the one way this module raises."""
    while True:
        result: int = function(*map(_pass, args))
        if result >= 0:
            return result
        if get_errno() != 4:  # EINTR
            _fail(name, subject)


# --- descriptors and paths ---


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close, or mark close-on-exec, all descriptors of a range, see close_range(2).

    Args:
        first: lowest descriptor.
        last: highest descriptor, included.
        flags: 0 or CLOSE_RANGE_CLOEXEC (Linux 5.11).
    """
    _call(_syscall, "close_range", first, _CLOSE_RANGE, first, last, flags)


def fstatfs(fd: int) -> int:
    """The file system's magic number (`f_type`), see fstatfs(2)."""
    buffer = bytearray(256)
    _call(_fstatfs, "fstatfs", fd, _Int(fd), buffer)
    return int.from_bytes(buffer[:8], sys.byteorder)


def getcwd() -> bytes:
    """The working directory as the kernel names it, see getcwd(2).

    Not os.getcwd: glibc hides the kernel's "(unreachable)" prefix behind a
    search of its own.
    """
    buffer = bytearray(4096)
    size = _call(_syscall, "getcwd", "", _GETCWD, buffer, len(buffer))
    return bytes(buffer[: size - 1])


def getsockopt(fd: int, level: int, option: int, asked: bytes) -> bytes:
    """An option whose buffer also says what is asked for, see getsockopt(2).

    Python's own passes an empty buffer; xtables wants a table's name in it.
    """
    buffer = bytearray(asked)
    length = bytearray(len(asked).to_bytes(4, sys.byteorder))
    subject = (_Int(fd), _Int(level), _Int(option), buffer, length)
    _call(_getsockopt, "getsockopt", option, *subject)
    return bytes(buffer)


def openat2(dirfd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open a path under restrictions on its resolution, see openat2(2).

    Args:
        dirfd: descriptor the path starts from.
        path: relative to dirfd; for RESOLVE_IN_ROOT absolute ones too.
        flags: O_* bits; O_CLOEXEC is always added.
        mode: permission bits, only with O_CREAT or O_TMPFILE.
        resolve: RESOLVE_* bits.

    Raises:
        KernelError: EXDEV where the path leaves dirfd, ELOOP where it meets a
            symbolic or magic link that resolve refuses.
    """
    order = sys.byteorder
    how = b"".join(v.to_bytes(8, order) for v in (flags | os.O_CLOEXEC, mode, resolve))
    while True:
        result: int = _syscall(_Long(_OPENAT2), _Long(dirfd), _pass(path), how, _Long(24))
        if result >= 0:
            return result
        # EAGAIN: a rename anywhere raced the walk; EINTR: a signal did.
        if get_errno() not in {11, 4}:
            _fail("openat2", path)


def statx_mount(dirfd: int, path: str | bytes = b"") -> tuple[int, bool]:
    """The mount a file is on, and whether the file is its root, see statx(2).

    Args:
        dirfd: descriptor the path starts from.
        path: relative path; empty for dirfd itself. Links are not followed.
    """
    buffer = bytearray(256)
    flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (0 if path else AT_EMPTY_PATH)
    _call(_statx, "statx", path or dirfd, _Int(dirfd), path, flags, STATX_MNT_ID, buffer)
    attributes = int.from_bytes(buffer[8:16], sys.byteorder)
    mount_id = int.from_bytes(buffer[144:152], sys.byteorder)
    return mount_id, bool(attributes & STATX_ATTR_MOUNT_ROOT)


# --- mounts ---


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """Set up a file system context, see fsconfig(2).

    Args:
        fd: what fsopen returned.
        command: FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING or FSCONFIG_CMD_CREATE.
        key: option's name.
        value: option's value, for FSCONFIG_SET_STRING.

    Raises:
        KernelError: with what the kernel wrote to the context's log as subject.
    """
    if (
        _syscall(_Long(_FSCONFIG), _Long(fd), _Long(command), _pass(key), _pass(value), _Long(0))
        < 0
    ):
        errno = get_errno()
        subject = key or "create"
        if value is not None:
            subject = f"{key}={value}"
        raise KernelError("fsconfig", _with_log(subject, fd), errno)


def _with_log(subject: str, fd: int) -> str:
    """Append the messages a file system context holds, where there are any."""
    try:
        log = os.read(fd, 1024).decode("utf-8", "replace").strip()
    except OSError:
        return subject
    return f"{subject} ({log[2:] if log[1:2] == ' ' else log})"


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of a created file system context, see fsmount(2)."""
    return _call(_syscall, "fsmount", fd, _FSMOUNT, fd, FSMOUNT_CLOEXEC, attributes)


def fsopen(kind: str) -> int:
    """A context for a new mount of that file system type, see fsopen(2)."""
    return _call(_syscall, "fsopen", kind, _FSOPEN, kind, FSOPEN_CLOEXEC)


def mount(
    source: str | bytes | None,
    target: str | bytes,
    kind: str | None,
    flags: int,
    data: str | None = None,
) -> None:
    """Mount, or change a mount, by name; see mount(2). Prefer the fd-based calls."""
    _call(_mount, "mount", target, source, target, kind, flags, data)


def mount_setattr(
    dirfd: int,
    path: str | bytes = b"",
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns_fd: int = 0,
) -> None:
    """Change a mount's attributes or propagation, see mount_setattr(2), Linux 5.12.

    Args:
        dirfd: descriptor of the mount (or of a directory the path starts from).
        path: empty for the mount of dirfd itself.
        attr_set: MOUNT_ATTR_* bits to set.
        attr_clr: MOUNT_ATTR_* bits to clear.
        propagation: one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, or 0.
        recursive: the whole tree of mounts.
        userns_fd: user namespace for MOUNT_ATTR_IDMAP.
    """
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    fields = (attr_set, attr_clr, propagation, userns_fd)
    attributes = b"".join(v.to_bytes(8, sys.byteorder) for v in fields)
    _call(
        _syscall,
        "mount_setattr",
        path or dirfd,
        _MOUNT_SETATTR,
        dirfd,
        path,
        flags,
        attributes,
        len(attributes),
    )


def move_mount(from_fd: int, to_dirfd: int, to_path: str | bytes = b"") -> None:
    """Attach the mount of from_fd at a place, see move_mount(2), Linux 5.2.

    Args:
        from_fd: descriptor of a (detached) mount.
        to_dirfd: descriptor of the mount point, or what to_path starts from.
        to_path: empty for to_dirfd itself.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    _call(
        _syscall,
        "move_mount",
        to_path or to_dirfd,
        _MOVE_MOUNT,
        from_fd,
        b"",
        to_dirfd,
        to_path,
        flags,
    )


def open_tree(dirfd: int, path: str | bytes, flags: int) -> int:
    """A descriptor of a mount, or of a detached copy of it, see open_tree(2).

    Args:
        dirfd: descriptor the path starts from.
        path: empty together with AT_EMPTY_PATH for dirfd itself.
        flags: OPEN_TREE_CLONE for a copy, with AT_RECURSIVE of the whole tree;
            OPEN_TREE_CLOEXEC is always added.
    """
    return _call(
        _syscall,
        "open_tree",
        path or dirfd,
        _OPEN_TREE,
        dirfd,
        path,
        flags | OPEN_TREE_CLOEXEC,
    )


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root mount of the mount namespace, see pivot_root(2)."""
    _call(_syscall, "pivot_root", new_root, _PIVOT_ROOT, new_root, put_old)


def umount2(target: str | bytes, flags: int = 0) -> None:
    """Detach a mount, see umount2(2)."""
    _call(_umount2, "umount2", target, target, flags)


# --- namespaces ---


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the UTS namespace, see setdomainname(2)."""
    raw = os.fsencode(name)
    _call(_setdomainname, "setdomainname", name, raw, len(raw))


def sethostname(name: str) -> None:
    """Set the host name of the UTS namespace, see sethostname(2)."""
    raw = os.fsencode(name)
    _call(_sethostname, "sethostname", name, raw, len(raw))


def setns(fd: int, kinds: int = 0) -> None:
    """Join namespaces, see setns(2).

    Args:
        fd: of a namespace file, or a pidfd (Linux 5.8).
        kinds: CLONE_NEW* bit the file must be of; for a pidfd all that are joined.

    Raises:
        KernelError: EINVAL for CLONE_NEWUSER of the caller's own namespace or
            with a second thread; EPERM without CAP_SYS_ADMIN over it.
    """
    _call(_setns, "setns", f"{kinds:#x}", _Int(fd), _Int(kinds))


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces, see unshare(2).

    Args:
        flags: CLONE_NEW* bits; CLONE_NEWPID and CLONE_NEWTIME take effect in
            the next child only.

    Raises:
        KernelError: EPERM without CAP_SYS_ADMIN; EINVAL for CLONE_NEWUSER
            while the process has a second thread.
    """
    _call(_unshare, "unshare", f"{flags:#x}", _Int(flags))


# --- processes ---


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor, see pidfd_getfd(2), Linux 5.6."""
    return _call(_syscall, "pidfd_getfd", fd, _PIDFD_GETFD, pidfd, fd, 0)


def pidfd_open(pid: int) -> int:
    """A descriptor of a process, close-on-exec, see pidfd_open(2), Linux 5.3.

    Raises:
        KernelError: ESRCH where there is no such process.
    """
    return _call(_syscall, "pidfd_open", pid, _PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal the process of a pidfd, see pidfd_send_signal(2), Linux 5.1.

    Raises:
        KernelError: ESRCH where the process has gone.
    """
    _call(
        _syscall,
        "pidfd_send_signal",
        number,
        _PIDFD_SEND_SIGNAL,
        pidfd,
        number,
        None,
        0,
    )


def prctl(option: int, arg2: int | bytes = 0, arg3: int = 0) -> int:
    """Operate on the calling process, see prctl(2)."""
    return _call(_prctl, "prctl", option, _Int(option), arg2, arg3, 0, 0)


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a process's limit, see prlimit(2).

    Args:
        pid: 0 for the caller.
        resource: RLIMIT_* number.
        soft: new soft limit; 2**64-1 for none.
        hard: new hard limit; 2**64-1 for none.

    Raises:
        KernelError: EPERM for a hard limit above the present one without
            CAP_SYS_RESOURCE.
    """
    limits = soft.to_bytes(8, sys.byteorder) + hard.to_bytes(8, sys.byteorder)
    _call(_prlimit, "prlimit", resource, _Int(pid), _Int(resource), limits, None)


def reset_signal(number: int) -> None:
    """Give a signal its default action, see rt_sigaction(2).

    Not the library's call, which keeps signals 32 and 33 from its callers: they
    too are inherited through execve when the parent ignored them.

    Raises:
        KernelError: EINVAL for SIGKILL, SIGSTOP and what is no signal.
    """
    _call(_syscall, "rt_sigaction", number, _RT_SIGACTION, number, bytes(32), None, 8)


# --- credentials ---

_CAPABILITY_VERSION_3 = 0x20080522


def capget() -> tuple[int, int, int]:
    """The caller's effective, permitted and inheritable sets, see capget(2)."""
    header = bytearray(_CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4))
    data = bytearray(24)
    _call(_capget, "capget", "", header, data)
    words = [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, 24, 4)]
    effective, permitted, inheritable = (words[at] | words[at + 3] << 32 for at in range(3))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's three capability sets, see capset(2).

    Args:
        effective: bit mask, 1 << CAP_*.
        permitted: bit mask.
        inheritable: bit mask.

    Raises:
        KernelError: EPERM for a capability the caller has not.
    """
    order = sys.byteorder
    header = bytearray(_CAPABILITY_VERSION_3.to_bytes(4, order) + bytes(4))
    sets = (effective, permitted, inheritable)
    low = b"".join((value & 0xFFFFFFFF).to_bytes(4, order) for value in sets)
    high = b"".join((value >> 32).to_bytes(4, order) for value in sets)
    _call(_capset, "capset", f"{permitted:#x}", header, low + high)


def keyctl(
    operation: int, arg2: int | bytes | None = None, arg3: int | bytearray = 0, arg4: int = 0
) -> int:
    """Operate on the kernel's key rings, see keyctl(2)."""
    return _call(_syscall, "keyctl", operation, _KEYCTL, operation, arg2, arg3, arg4, 0)


# --- control groups ---

_BPF = {"x86_64": 321, "aarch64": 280}
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2


def bpf_attach_device_program(directory_fd: int, instructions: bytes) -> None:
    """Let a program decide which devices a cgroup2 group may use, see bpf(2).

    The program stays for as long as the group does.

    Args:
        directory_fd: descriptor of the group's directory.
        instructions: eight bytes each, see the kernel's bpf/standardization.

    Raises:
        KernelError: EPERM without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN); EINVAL
            for a program the verifier does not accept.
    """
    order = sys.byteorder
    number = _BPF[os.uname().machine]
    code = (_Char * len(instructions)).from_buffer_copy(instructions)
    terms = (_Char * 4).from_buffer_copy(b"GPL\0")
    load = bytearray(128)
    for at, size, value in (
        (0, 4, BPF_PROG_TYPE_CGROUP_DEVICE),
        (4, 4, len(instructions) // 8),
        (8, 8, addressof(code)),
        (16, 8, addressof(terms)),
    ):
        load[at : at + size] = value.to_bytes(size, order)
    program = _call(_syscall, "bpf", "BPF_PROG_LOAD", number, BPF_PROG_LOAD, load, len(load))
    try:
        attach = b"".join(
            value.to_bytes(4, order)
            for value in (directory_fd, program, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
        )
        _call(_syscall, "bpf", "BPF_PROG_ATTACH", number, BPF_PROG_ATTACH, attach, len(attach))
    finally:
        os.close(program)
