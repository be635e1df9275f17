"""A container's control groups as directories: made, joined, listed, emptied, removed.

Lives here: what concerns processes and directories. Must not live here: limits.
Imported through `migrate.runtime.cgroup`.
"""

from __future__ import annotations

import errno
import os
import time

from migrate.errors import CgroupError
from migrate.runtime.cgroup import files, freezer
from migrate.runtime.cgroup.hierarchy import directory_of, is_unified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

SIGKILL = 9
RETRY_SECONDS = 0.001
LONGEST_RETRY_SECONDS = 0.02
# A v1 write of a pid fails with EINVAL while the cgroup is being set up elsewhere.
JOIN_ATTEMPTS = 5
JOIN_PAUSE_SECONDS = 0.03
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def exists(paths: Mapping[str, str]) -> bool:
    """Tell whether any of the directories is there."""
    return any(os.path.isdir(directory) for directory in paths.values())


def make(
    paths: Mapping[str, str],
    inhabitants: Collection[int] = (),
    new: dict[str, str] | None = None,
) -> None:
    """Make the directories, ready for limits and processes.

    Args:
        paths: of the container.
        inhabitants: processes of the container that are in there already.
        new: takes those that were not there before, also where not all can be made.

    Raises:
        CgroupError: a directory cannot be made, or holds processes of somebody else.
    """
    for key, directory in paths.items():
        if inhabitants and os.path.isdir(directory):
            continue  # systemd's, which has handed its controllers down as it means to
        if directory in _made(paths, key, directory) and new is not None:
            new[key] = directory
    refuse_occupied(paths, inhabitants)
    if freezer.frozen_state(paths) != "THAWED":
        freezer.thaw(paths)  # what a killed command left; nobody is in it


def _made(paths: Mapping[str, str], key: str, directory: str) -> list[str]:
    """Make one directory, as its tree wants it; return those that are new."""
    if is_unified(paths):
        return _make_v2(directory)
    if "cpuset" in key.split(","):
        return _make_cpuset(directory)
    return _makedirs(directory)


def refuse_occupied(paths: Mapping[str, str], inhabitants: Collection[int] = ()) -> None:
    """Refuse control groups that somebody else's processes are in.

    To be asked before a record names them: what is left of a container that could not
    be made is killed by its record.

    Raises:
        CgroupError: there are some.
    """
    strangers = set(procs(paths)).difference(inhabitants)
    if strangers:
        raise CgroupError(
            f"control group {next(iter(paths.values()))} is not empty: "
            f"{len(strangers)} processes are in it",
            "Give the container a cgroupsPath of its own.",
        )


def add(paths: Mapping[str, str], pid: int) -> None:
    """Move a process, with all its threads, into a container's cgroups.

    Raises:
        CgroupError: names the directory and the kernel's reason.
    """
    for directory in paths.values():
        for attempt in range(JOIN_ATTEMPTS):
            try:
                files.write_raw(f"{directory}/cgroup.procs", str(pid))
                break
            except OSError as error:
                if error.errno == errno.EINVAL and attempt < JOIN_ATTEMPTS - 1:
                    time.sleep(JOIN_PAUSE_SECONDS)
                    continue
                raise CgroupError(
                    f"process {pid} cannot join control group {directory}: "
                    f"{str(error.strerror).lower()}"
                ) from None


def procs(paths: Mapping[str, str]) -> list[int]:
    """Return the processes of a container, those in cgroups below its own included."""
    directory = tree_of_processes(paths)
    pids: set[int] = set()
    for parent, name in _walk(directory) if directory else ():
        text = files.read_if_there(f"{name}/cgroup.procs", parent)
        pids.update(int(pid) for pid in (text or "").split())
    return sorted(pids)


def kill(paths: Mapping[str, str], timeout_seconds: float = 10.0) -> None:
    """Kill every process of a container, also where it is frozen or forks without end.

    Raises:
        CgroupError: some did not die in time, or the caller itself is among them.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = RETRY_SECONDS
    while pids := procs(paths):
        refuse_strangers(paths, pids)
        if time.monotonic() >= deadline:
            raise CgroupError(
                f"processes {', '.join(map(str, pids))} did not die within {timeout_seconds:g} s",
                "Look for a process in uninterruptible sleep (state D).",
            )
        _kill_once(paths, pids)
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_RETRY_SECONDS)


def refuse_strangers(paths: Mapping[str, str], pids: list[int]) -> None:
    """Refuse to freeze or kill what cannot be a container: it holds this very process.

    A record may be forged or out of date, and name the group of somebody else.

    Raises:
        CgroupError: it does, or a process of another pid namespace.
    """
    if os.getpid() in pids or 0 in pids:
        raise CgroupError(
            f"control group {tree_of_processes(paths)} holds processes that are not "
            "the container's",
            "Look at its cgroup.procs; this program leaves them alone.",
        )


def destroy(paths: Mapping[str, str], timeout_seconds: float = 5.0) -> None:
    """Remove the directories, those below them first.

    A cgroup stays busy for a moment after its last process has ended.

    Raises:
        CgroupError: one is still busy at the deadline.
    """
    deadline = time.monotonic() + timeout_seconds
    for directory in paths.values():
        if os.path.ismount(directory):
            raise CgroupError(f"control group {directory} is the root of its tree, and stays")
        pause = RETRY_SECONDS
        while not _removed(directory):
            if time.monotonic() >= deadline:
                raise CgroupError(
                    f"control group {directory} cannot be removed: it is busy",
                    "Look at its cgroup.procs for what is left in it.",
                )
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)


def _kill_once(paths: Mapping[str, str], pids: list[int]) -> None:
    """Send SIGKILL to all there are, such that none forks in between."""
    directory = paths.get("")
    if is_unified(paths) and directory and os.path.exists(f"{directory}/cgroup.kill"):
        files.write(f"{directory}/cgroup.kill", "1")  # since Linux 5.14; frozen ones too
        return
    try:
        freezer.freeze(paths, 0.5)
        pids = procs(paths)
    except CgroupError:
        pass  # one round more or less: the caller repeats until none is left
    for pid in pids:
        # No pidfd: a pid listed here was in the cgroup a moment ago and, frozen,
        # cannot have ended since.
        try:
            os.kill(pid, SIGKILL)
        except ProcessLookupError:
            continue
    freezer.thaw(paths)  # v1: a frozen process dies only once it is thawed


def tree_of_processes(paths: Mapping[str, str]) -> str | None:
    """Return the directory in the tree that decides who belongs to the container."""
    for controller in ("freezer", "devices", "pids", "memory"):
        directory = directory_of(paths, controller)
        if directory is not None:
            return directory
    return paths.get("", next(iter(paths.values()), None))


def _walk(directory: str) -> Iterator[tuple[int, str]]:
    """Yield a cgroup and all below it, the deepest first; nothing that is no cgroup.

    Each as a descriptor of the directory it is in, and its name there. Not by path, and
    not by recursion: a container that may make groups makes them as deep as it likes.
    """
    above, name = os.path.split(directory)
    try:
        at = os.open(above, _DIRECTORY)
    except OSError:
        return
    levels = [[name]]  # from the top down to `at`: the names that are still to come
    try:
        while levels[-1] or len(levels) > 1:
            if levels[-1]:
                below = _open_group(at, levels[-1][-1])
                if below is None:
                    levels[-1].pop()
                    continue
                os.close(at)
                at = below
                levels.append(_directories(at))
            else:
                levels.pop()
                up = os.open("..", _DIRECTORY, dir_fd=at)
                os.close(at)
                at = up
                yield at, levels[-1].pop()
    finally:
        os.close(at)


def _open_group(at: int, name: str) -> int | None:
    """Return a descriptor of a cgroup, or None where it is gone or is none."""
    try:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    except OSError:
        return None
    if os.access("cgroup.procs", os.F_OK, dir_fd=fd):
        return fd
    os.close(fd)
    return None


def _directories(fd: int) -> list[str]:
    """Return the names of the directories in one; none where it is gone meanwhile."""
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _removed(directory: str) -> bool:
    """Remove a cgroup and those below it; tell whether it is gone."""
    for parent, name in _walk(directory):
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY, errno.EINTR):
                return False
            raise CgroupError(
                f"control group {name} in {directory} cannot be removed: "
                f"{str(error.strerror).lower()}"
            ) from None
    return True


def _makedirs(directory: str) -> list[str]:
    """Make a directory and its parents; return those that are new, parents first."""
    missing = []
    at = directory
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    made = []
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o755)
            made.append(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise CgroupError(
                f"control group {path} cannot be made: {str(error.strerror).lower()}",
                "Run as root with the tree mounted writable, or choose another cgroupsPath.",
            ) from None
    return made


def _make_cpuset(directory: str) -> list[str]:
    """Make a v1 cpuset: a new one has no processors and no memory until told."""
    made = _makedirs(directory)
    chain = [directory]
    while not os.path.ismount(chain[-1]):
        chain.append(os.path.dirname(chain[-1]))
    for parent, child in zip(chain[:0:-1], chain[-2::-1], strict=True):
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not files.read(f"{child}/{name}"):
                files.write(f"{child}/{name}", files.read(f"{parent}/{name}"))
    return made


def _make_v2(directory: str) -> list[str]:
    """Make a v2 cgroup with every controller its parents can give it."""
    made = _makedirs(directory)
    chain = [os.path.dirname(directory)]
    while not os.path.ismount(chain[-1]):
        chain.append(os.path.dirname(chain[-1]))
    for parent in reversed(chain):
        offered = (files.read_if_there(f"{parent}/cgroup.controllers") or "").split()
        enabled = (files.read_if_there(f"{parent}/cgroup.subtree_control") or "").split()
        for controller in offered:
            if controller in enabled:
                continue
            # One by one: a controller that cannot be had, as cpu beside real-time
            # processes, or all in a group that holds processes, must not cost the
            # others. A limit that then has no file is refused by its name.
            try:
                files.write_raw(f"{parent}/cgroup.subtree_control", f"+{controller}")
            except OSError:
                continue
    return made
