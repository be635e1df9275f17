"""The payload: its environment, working directory, program, and the last execve.

Lives here: what `create` and `exec` have in common once the container is around
them. Must not live here: anything that still needs privileges of the host.
"""

from __future__ import annotations

import marshal
import os
import stat

from migrate import syscalls
from migrate.errors import KernelError, StageError
from migrate.runtime.init import credentials
from migrate.runtime.init.context import close_on_exec_from
from migrate.runtime.init.rootfs import Root, read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

LARGEST_PASSWD_BYTES = 4 << 20
_EACCES = 13


def environment(process: dict[str, Any], root: Root) -> dict[str, str]:
    """The environment, with HOME out of the container's /etc/passwd where it is missing."""
    pairs = dict(entry.split("=", 1) for entry in process["env"])
    if not pairs.get("HOME"):
        pairs["HOME"] = credentials.home_of(_passwd(root), process["uid"])
    return pairs


def _passwd(root: Root) -> bytes:
    try:
        fd = root.open("etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except KernelError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return read_all(fd, LARGEST_PASSWD_BYTES)
    finally:
        os.close(fd)


def become(process: dict[str, Any]) -> None:
    """Take on user, capabilities and working directory.

    The directory is tried before the change of user, for those that only root may
    enter, and after it, for those that only the user may (NFS with root squashed).
    """
    if process["personality"] is not None:
        syscalls.personality(process["personality"])
    if process["memory_policy"] is not None:
        _set_memory_policy(*process["memory_policy"])
    if process["no_new_privileges"]:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    cwd = process["cwd"]
    entered = _enter(cwd, process["make_cwd"])
    credentials.apply(process)
    os.umask(process["umask"])
    if not entered:
        try:
            os.chdir(cwd)
        except OSError as error:
            raise StageError(
                f'chdir to cwd ("{cwd}") set in config.json failed: {str(error.strerror).lower()}'
            ) from None
    # A directory of the host's, reached through a leaked descriptor, has no name
    # here (CVE-2024-21626).
    if not syscalls.getcwd().startswith(b"/"):
        raise StageError("current working directory is outside of container mount namespace root")


def _set_memory_policy(mode: int, nodes: bytes) -> None:
    try:
        syscalls.set_mempolicy(mode, nodes)
    except KernelError as error:
        raise StageError(
            f"$.linux.memoryPolicy: cannot be set: {os.strerror(error.errno).lower()}",
            "Name nodes that the machine, and the container's cpuset, have.",
        ) from None


def _enter(cwd: str, make: bool) -> bool:  # noqa: FBT001 - the plan's field
    try:
        os.chdir(cwd)
    except FileNotFoundError:
        if not make:
            return False
        try:
            _make_inside(cwd)
            os.chdir(cwd)
        except (KernelError, OSError):
            return False
    except OSError:
        return False
    return True


def _make_inside(path: str) -> None:
    """Make a directory that no link of the image, such as /proc/PID/root, leads outside."""
    top = os.open("/", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(Root(top, -1).make_directory(os.path.normpath(path)))
    finally:
        os.close(top)


def find_program(name: str, path: str | None) -> str:
    """The program's path, as execvp(3) would find it, in the words engines look for.

    Args:
        name: first argument of the payload.
        path: its PATH.

    Raises:
        StageError: "executable file not found in $PATH", "no such file or
            directory", "permission denied".
    """
    if "/" in name:
        problem = _problem_with(name)
        if problem:
            raise StageError(f'exec: "{name}": {problem}')
        return name
    denied = False
    for directory in (path or "").split(":"):
        candidate = f"{directory or '.'}/{name}"
        problem = _problem_with(candidate)
        if not problem:
            return candidate
        denied = denied or problem.endswith("permission denied")
    if denied:
        raise StageError(f'exec: "{name}": permission denied')
    raise StageError(
        f'exec: "{name}": executable file not found in $PATH',
        "Check $.process.args[0] and PATH in $.process.env against the root file system.",
    )


def _problem_with(path: str) -> str:
    """Why a path cannot be executed, "" if it can."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"stat {path}: {str(error.strerror).lower()}"
    if stat.S_ISDIR(mode):
        # execve's own word for it comes along: engines know it, and exit 126.
        return "is a directory: permission denied"
    if not os.access(path, os.X_OK, effective_ids=True):
        return "permission denied"
    return ""


def seal(process: dict[str, Any], hand_over: Callable[[int], None]) -> None:
    """Let no descriptor through, and load the system call filter, last of all.

    From here on the filter decides about this process too. So as little as possible
    comes after it: hooks of the container's side, which it is to hold as well, and
    execve. Without no_new_privs loading it takes CAP_SYS_ADMIN: `credentials.apply`
    has kept that for it, and execve does away with it.

    Args:
        process: of the plan.
        hand_over: sends the filter's listener on, if it has one.

    Raises:
        StageError: the kernel does not take the filter.
    """
    close_on_exec_from(3 + process["preserve_fds"])
    if not process["filter"]:
        return
    program, flags, has_listener = marshal.loads(process["filter"])  # noqa: S302 - our parent's
    try:
        listener = syscalls.seccomp_set_filter(program, flags)
    except KernelError as error:
        denied = error.errno == _EACCES
        raise StageError(
            f"$.linux.seccomp: cannot load the filter: {os.strerror(error.errno).lower()}",
            "Set $.process.noNewPrivileges to true: without it, it takes CAP_SYS_ADMIN."
            if denied
            else "",
        ) from None
    if has_listener:
        hand_over(listener)


def execute(program: str, process: dict[str, Any], pairs: dict[str, str]) -> NoReturn:
    """Become the payload.

    Raises:
        StageError: execve failed; the process is still this one.
    """
    try:
        os.execve(program, process["args"], pairs)  # noqa: S606 - what a runtime is for
    except OSError as error:
        reason = str(error.strerror).lower()
        raise StageError(f"exec {program}: {reason}") from None
