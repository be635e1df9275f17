"""One more process in a running container.

Lives here: what `exec` does on the host's side. Must not live here: what is done
inside (`init.execute`). May be imported by every room above `runtime`.
"""

from __future__ import annotations

import os
import select

from migrate import syscalls
from migrate.errors import CgroupError, StageError, WrongStatus
from migrate.runtime import cgroup, handover, plan, state
from migrate.runtime.cgroup import files
from migrate.runtime.cgroup.hierarchy import directory_of, hierarchies
from migrate.runtime.launch import answer_limits, prepare_filter
from migrate.runtime.spec.validation import NAMESPACE_FILES, validate_process, warnings
from migrate.runtime.stage import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from migrate.runtime.spec.model import Linux, Process, Seccomp
    from migrate.runtime.state import Record, Store


class ExecOptions:
    """What the command line adds to the process.

    Attributes:
        cgroup: directories to join; the container's own where None.
        console_socket: path of the socket the terminal's master goes to.
        take_console: called with the master instead.
        warn: called with what is carried out otherwise than the process says.
        pid_file: path the process's pid is written to.
        pidfd_socket: path of the socket a pidfd goes to.
        preserve_fds: how many descriptors after the standard three reach the payload.
        adopted: nobody here waits for it: it becomes a child of the container's first
            process, where that has a pid namespace, and goes where that goes.
    """

    __slots__ = (
        "adopted",
        "cgroup",
        "console_socket",
        "pid_file",
        "pidfd_socket",
        "preserve_fds",
        "take_console",
        "warn",
    )

    def __init__(
        self,
        *,
        cgroup: dict[str, str] | None = None,
        console_socket: str = "",
        take_console: Callable[[int], None] | None = None,
        pid_file: str = "",
        pidfd_socket: str = "",
        preserve_fds: int = 0,
        warn: Callable[[str], None] | None = None,
        adopted: bool = False,
    ) -> None:
        self.adopted = adopted
        self.cgroup = cgroup
        self.console_socket = console_socket
        self.take_console = take_console
        self.pid_file = pid_file
        self.pidfd_socket = pidfd_socket
        self.preserve_fds = preserve_fds
        self.warn = warn


def exec_process(store: Store, record: Record, process: Process, options: ExecOptions) -> int:
    """Start a process in a container and return its pid as seen here.

    The process is this one's child until this one ends, then its caller's; or, adopted,
    a child of the container's first.

    Args:
        record: of a running container.
        process: decoded; complete, as a configuration's own would be.
        options: of the command line.

    Raises:
        ConfigError: the process cannot be started as it is written.
        WrongStatus: the container has stopped.
        StageError: a step inside failed, such as finding the program.
    """
    stage = Stage(options.preserve_fds)
    try:
        validate_process(process, "$")
        if options.warn is not None:
            for problem in warnings(process, "$"):
                options.warn(problem)
        _check_terminal(process, options)
        join, fds = _namespaces(record)
        try:
            lasting = _lasting(store, record, process)
            _set_affinity(stage.first_pid, process, "initial")
            # Moving a process takes the kernel a grace period: stage 1 moves while it
            # starts up, and what it forks is born in the cgroup. Where there is room for
            # one task only, stage 2 moves, which the limit does not hinder.
            joins_early = _has_room(options.cgroup or record["cgroup"], 2)
            if joins_early:
                _join_cgroup(record, options, stage.first_pid)
            the_plan = plan.for_exec(
                process,
                join=join,
                in_user_namespace=any(kind == syscalls.CLONE_NEWUSER for kind, _ in join),
                preserve_fds=options.preserve_fds,
                keyring=f"_ses.{record['id']}",
                adopted=options.adopted
                and any(kind == syscalls.CLONE_NEWPID for kind, _ in join)
                and _has_room(options.cgroup or record["cgroup"], 3),
            )
            the_plan["process"].update(plan.lasting(lasting))
            seccomp = lasting.get("seccomp")
            the_plan["process"]["filtered"] = seccomp is not None
            pid = stage.fork(the_plan, tuple(fds), _no_maps)
        finally:
            for fd in fds:
                os.close(fd)
        if not joins_early:
            _join_cgroup(record, options, pid)
        _set_affinity(pid, process, "final")
        if "rdt" in record:
            from migrate.runtime import resctrl

            resctrl.join(record, pid)
        stage.converse(
            {
                "CONSOLE": lambda body, fds: handover.console(body, fds, options),
                "LIMITS": lambda _body, _fds: answer_limits(stage, process),
            },
            meanwhile=lambda: prepare_filter(stage, seccomp),
        )
        handover.announce(pid, options)
        try:
            stage.release(
                wait_for_exec=True,
                take_listener=lambda fd: _hand_over(fd, seccomp, record, pid),
            )
        except StageError:
            handover.withdraw(options)
            raise
        stage.close()
    except BaseException:
        stage.abort()
        raise
    return pid


def _check_terminal(process: Process, options: ExecOptions) -> None:
    if process.get("terminal") and not (options.console_socket or options.take_console):
        raise StageError(
            "cannot allocate tty if migrate will detach without setting console socket",
            "Give --console-socket, or leave out --tty.",
        )
    if options.console_socket and not process.get("terminal"):
        raise StageError(
            "cannot use console socket if migrate will not detach or allocate tty",
            "Add --tty, or leave out --console-socket.",
        )


# Members of a configuration that hold for all its processes: `linux` has the first ones.
_LASTING = (b"seccomp", b"memoryPolicy", b"personality")
_INHERITED: tuple[Literal["scheduler", "ioPriority", "execCPUAffinity"], ...] = (
    "scheduler",
    "ioPriority",
    "execCPUAffinity",
)


def _lasting(store: Store, record: Record, process: Process) -> Linux:
    """What `linux` of the container's configuration says of all its processes.

    A process that brings no priorities of its own gets those of the container's, as runc
    does it. Decoding takes longer than looking: a configuration without any of the words,
    written plainly or in escapes, has none.
    """
    config = store.read(record["id"], "config.json")
    words = (*_LASTING, *(name.encode() for name in _INHERITED))
    if b"\\u" not in config and not any(b'"%b"' % word in config for word in words):
        return {}
    from migrate.runtime.spec import decode

    spec = decode(config, "config.json")
    for name in _INHERITED:
        if name in spec["process"] and name not in process:
            process[name] = spec["process"][name]
    return spec.get("linux", {})


def _set_affinity(pid: int, process: Process, moment: Literal["initial", "final"]) -> None:
    """Keep the process on CPUs: `initial` before it is in the cgroup, `final` after."""
    cpus = process.get("execCPUAffinity", {}).get(moment)
    if cpus:
        from migrate.runtime import priorities

        priorities.set_affinity(pid, cpus, f"$.process.execCPUAffinity.{moment}")


def _hand_over(fd: int, seccomp: Seccomp | None, record: Record, pid: int) -> None:
    from migrate.runtime.filters import hand_over

    try:
        if seccomp:
            hand_over(fd, seccomp, record, "running", pid)
    finally:
        os.close(fd)


def _no_maps(_pid: int) -> None:
    raise StageError("exec never makes a user namespace")


def _namespaces(record: Record) -> tuple[list[tuple[int, str]], list[int]]:
    """The container's namespaces that are not ours, and a descriptor of each.

    The descriptors come first and the process is looked at after them: while it
    lives, its pid has not been another's.
    """
    pidfd = state.open_pidfd(record)
    if pidfd is None:
        raise WrongStatus("cannot exec in a stopped container")
    join: list[tuple[int, str]] = []
    fds: list[int] = []
    try:
        for kind, flag in plan.NAMESPACE_FLAGS.items():
            name = NAMESPACE_FILES[kind]
            path = f"/proc/{record['pid']}/ns/{name}"
            try:
                if os.readlink(path) == os.readlink(f"/proc/self/ns/{name}"):
                    continue
                fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                if os.path.exists(f"/proc/self/ns/{name}"):
                    raise WrongStatus("cannot exec in a stopped container") from None
                continue  # this kernel has no such namespaces
            join.append((flag, name))
        _check_alive(pidfd)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    finally:
        os.close(pidfd)
    return join, fds


def _check_alive(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(0):
        raise WrongStatus("cannot exec in a stopped container")


def _has_room(paths: dict[str, str], tasks: int) -> bool:
    """Whether a container's limit leaves room for so many tasks."""
    directory = directory_of(paths, "pids") or paths.get("")
    if directory is None:
        return True
    limit = files.read_if_there(f"{directory}/pids.max") or "max"
    used = files.read_if_there(f"{directory}/pids.current") or "0"
    return limit == "max" or int(limit) - int(used) >= tasks


def _join_cgroup(record: Record, options: ExecOptions, pid: int) -> None:
    """Put the process where the container's others are.

    On v2, a container that divides its own group keeps no process in its top; then
    the group of its first process is the one.
    """
    try:
        cgroup.add(options.cgroup or record["cgroup"], pid)
    except CgroupError:
        if options.cgroup or set(record["cgroup"]) != {""}:
            raise
        first = group_of_first(record)
        if record.get("systemd", {}).get("bus") == "user":
            # Out of a session's own group a user may move nothing; systemd may.
            from migrate.runtime.systemd import driver

            driver.attach(record, pid, first.removeprefix(record["cgroup"][""]))
            return
        cgroup.add({"": first}, pid)


def group_of_first(record: Record) -> str:
    """Return the v2 group of a container's first process, which is below its own.

    Raises:
        CgroupError: it is somewhere else. The container names the groups it makes, and
            must lead nobody out of its own by what it calls them.
    """
    lines = files.read(f"/proc/{record['pid']}/cgroup").split("\n")
    inner = next((line[3:] for line in lines if line.startswith("0::")), "")
    directory = f"{hierarchies()[''].mount_point}{inner}"
    own = record["cgroup"][""]
    if not f"{directory}/".startswith(f"{own}/"):
        raise CgroupError(f"the container's first process is outside of its control group {own}")
    return directory
