"""The open files of a container's processes, seen as CRIU will see them.

Lives here: which descriptors lead outside (and how they are named to CRIU), which
have lost their name, which nobody can carry. Must not live here: sockets' peers and
connections (`inspect`). May be imported by `checkpoint` only.

What CRIU calls them: `pipe:[INODE]`, `file[MOUNT:INODE]` and `tty[RDEV:DEV]`, the last
two in hex (criu/files-reg.c, criu/tty.c). A pipe is outside where the container holds
only one of its ends; a file, where its mount is not one of the container's.
"""

from __future__ import annotations

import contextlib
import os
import stat as stat_modes
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from migrate import syscalls
from migrate.checkpoint import procfs, watches
from migrate.checkpoint.facts import Obstacle, Stdio

_MQUEUE_MAGIC = 0x19800202
_DELETED = " (deleted)"
_CREATION_FLAGS = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC
_TTY_MAJORS = frozenset((4, 5, *range(136, 144)))
# Devices that are the same everywhere and keep no state in the descriptor.
_PLAIN_DEVICES = frozenset(((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (1, 11), (10, 200)))
_CARRIED_ANON_INODES = frozenset(
    ("eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "pidfd", "userfaultfd")
)


@dataclass(slots=True)
class Descriptors:
    """What the descriptors of all processes come to.

    Attributes:
        sockets: inode of each socket to the pid of who has it.
        socket_numbers: inode of each to that process and its descriptor.
    """

    stdio: tuple[Stdio, ...] = ()
    sockets: dict[int, int] = field(default_factory=dict)
    socket_numbers: dict[int, tuple[int, int]] = field(default_factory=dict)
    ghost_bytes: int = 0
    has_remapped_links: bool = False
    obstacles: list[Obstacle] = field(default_factory=list)


@dataclass(slots=True)
class _Pipe:
    """The ends of one pipe that the container holds."""

    is_read: bool = False
    is_written: bool = False
    first: Stdio | None = None


def read_descriptors(pids: Iterable[int], names: Mapping[int, str]) -> Descriptors:
    """Return what the descriptors of the processes are.

    Args:
        pids: the first process of the container first.
        names: how each is called in messages.
    """
    found = Descriptors()
    outside: dict[str, Stdio] = {}
    pipes: dict[str, _Pipe] = {}
    inner_mounts: set[int] = set()
    first = -1
    for pid in pids:
        if first < 0:
            first = pid
            inner_mounts = {line.mount_id for line in procfs.mounts(pid)}
        for file in _open_files(pid):
            number = file.number if pid == first and file.number <= 2 else -1
            if file.link.startswith("pipe:["):
                _note_pipe(pipes.setdefault(file.link, _Pipe()), file, number)
            elif file.link.startswith("socket:["):
                found.sockets.setdefault(int(file.link[8:-1]), pid)
                found.socket_numbers.setdefault(int(file.link[8:-1]), (pid, file.number))
            elif file.link.startswith("anon_inode:"):
                _note_anon_inode(found, file, pid, names[pid])
            elif file.link.startswith("/"):
                if file.mount_id in inner_mounts or file.link.startswith("/memfd:"):
                    _note_inner(found, file, names[pid])
                elif _is_message_queue(pid, file.number):
                    _refuse_message_queue(found, file, names[pid])
                else:
                    here = _outside(file, number)
                    outside.setdefault(here.key, here)
            else:
                _note_unknown(found, file, names[pid])
    for pipe in pipes.values():
        if pipe.first is not None and not (pipe.is_read and pipe.is_written):
            outside[pipe.first.key] = pipe.first
    found.stdio = tuple(sorted(outside.values(), key=lambda each: (each.descriptor, each.key)))
    return found


def _open_files(pid: int) -> Iterator[procfs.OpenFile]:
    """Yield the descriptors of a process, none where it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield from procfs.open_files(pid)


def _note_pipe(pipe: _Pipe, file: procfs.OpenFile, number: int) -> None:
    """Note which end this is, and remember it under the lowest standard descriptor."""
    access = file.flags & os.O_ACCMODE
    pipe.is_read |= access in (os.O_RDONLY, os.O_RDWR)
    pipe.is_written |= access in (os.O_WRONLY, os.O_RDWR)
    if pipe.first is None or (pipe.first.descriptor < 0 <= number):
        flags = file.flags & ~_CREATION_FLAGS
        pipe.first = Stdio(descriptor=number, kind="pipe", key=file.link, flags=flags)


def _outside(file: procfs.OpenFile, number: int) -> Stdio:
    """Return a file of the host under CRIU's name for it."""
    device = file.stat.st_rdev
    is_terminal = stat_modes.S_ISCHR(file.stat.st_mode) and os.major(device) in _TTY_MAJORS
    key = (
        f"tty[{device:x}:{file.stat.st_dev:x}]"
        if is_terminal
        else f"file[{file.mount_id:x}:{file.stat.st_ino:x}]"
    )
    return Stdio(
        descriptor=number,
        kind="terminal" if is_terminal else "file",
        key=key,
        path=file.link,
        flags=file.flags & ~_CREATION_FLAGS,
    )


def _note_inner(found: Descriptors, file: procfs.OpenFile, name: str) -> None:
    """Note what is special about a file of the container's own."""
    mode = file.stat.st_mode
    if stat_modes.S_ISREG(mode) and not file.link.startswith("/memfd:"):
        if file.stat.st_nlink == 0:
            found.ghost_bytes = max(found.ghost_bytes, file.stat.st_blocks * 512, file.stat.st_size)
        elif file.link.endswith(_DELETED):
            found.has_remapped_links = True
    elif stat_modes.S_ISCHR(mode) or stat_modes.S_ISBLK(mode):
        number = (os.major(file.stat.st_rdev), os.minor(file.stat.st_rdev))
        is_plain = number in _PLAIN_DEVICES or number[0] in _TTY_MAJORS
        if stat_modes.S_ISBLK(mode) or not is_plain:
            found.obstacles.append(
                Obstacle(
                    verdict="refuse",
                    what=f"process {name} has device {file.link} open as {file.number}",
                    hint="A device keeps state CRIU cannot carry; close it first.",
                )
            )


def _note_anon_inode(found: Descriptors, file: procfs.OpenFile, pid: int, name: str) -> None:
    """Refuse the kernel objects that CRIU cannot dump, or changes."""
    kind = file.link.removeprefix("anon_inode:").strip("[]")
    if kind not in _CARRIED_ANON_INODES:
        found.obstacles.append(
            Obstacle(
                verdict="refuse",
                what=f"process {name} has {kind} open as {file.number}",
                hint="CRIU cannot carry it; turn its use off in the program's configuration.",
            )
        )
    elif kind in ("inotify", "fanotify"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.obstacles += watches.obstacles(pid, file.number, name)
    elif kind == "eventfd" and _is_semaphore(pid, file.number):
        found.obstacles.append(
            Obstacle(
                verdict="refuse",
                what=f"process {name} has a semaphore (eventfd) open as {file.number}, which "
                "would come back as a plain counter",
                hint="CRIU forgets EFD_SEMAPHORE; turn its use off in the program's configuration.",
            )
        )


def _is_message_queue(pid: int, number: int) -> bool:
    """Tell whether a descriptor is a POSIX message queue's, see mq_overview(7)."""
    try:
        file = os.open(f"/proc/{pid}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return syscalls.fstatfs(file) == _MQUEUE_MAGIC
    finally:
        os.close(file)


def _refuse_message_queue(found: Descriptors, file: procfs.OpenFile, name: str) -> None:
    """Refuse what CRIU does not look into."""
    found.obstacles.append(
        Obstacle(
            verdict="refuse",
            what=f"process {name} has the message queue {file.link} open as {file.number}",
            hint="CRIU cannot carry POSIX message queues; close and unlink it first.",
        )
    )


def _is_semaphore(pid: int, number: int) -> bool:
    """Tell whether a read of an eventfd takes one off, see EFD_SEMAPHORE in eventfd(2)."""
    try:
        lines = procfs.read(f"/proc/{pid}/fdinfo/{number}").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(line.split() == ["eventfd-semaphore:", "1"] for line in lines)


def _note_unknown(found: Descriptors, file: procfs.OpenFile, name: str) -> None:
    """Warn of what may or may not work, such as a namespace kept open."""
    found.obstacles.append(
        Obstacle(
            verdict="warn",
            what=f"process {name} has {file.link} open as {file.number}",
            hint="If the dump fails, close it first.",
        )
    )
