"""Making containers.

Lives here: what `create` does on the host's side, in its order, and what is taken
back when a step fails. Must not live here: anything done inside the container
(`init`), decisions (`plan`), other commands. May be imported by every room above
`runtime`; `start` is in `runtime.begin`, `exec` in `runtime.execute`.
"""

from __future__ import annotations

import marshal
import os

from migrate import syscalls
from migrate.errors import ConfigError, HookError, KernelError, StageError
from migrate.runtime import (
    door,
    group,
    handover,
    hooks,
    idmaps,
    interrupt,
    plan,
    protocol,
    state,
    statedir,
)
from migrate.runtime.begin import start
from migrate.runtime.configfile import read_config, write_config
from migrate.runtime.spec.decoding import decode
from migrate.runtime.spec.validation import RLIMITS, rootfs_path, validate, warnings
from migrate.runtime.stage import Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from migrate.runtime.spec.model import Linux, Process, Seccomp, Spec
    from migrate.runtime.state import Record, Store

__all__ = [
    "CreateOptions",
    "answer_limits",
    "create",
    "create_from_bundle",
    "new_record",
    "prepare_filter",
    "start",
    "take_back",
]


class CreateOptions:
    """What the command line adds to the configuration.

    Attributes:
        config: the bytes of config.json; read from the bundle where empty.
        console_socket: path of the socket the terminal's master goes to.
        explain: called with each step of the plan.
        take_console: called with the master instead.
        warn: called with what is carried out otherwise than the configuration says.
        no_new_keyring: stay in the caller's session key ring.
        no_pivot: chroot where pivot_root is impossible.
        pid_file: path the first process's pid is written to.
        pidfd_socket: path of the socket a pidfd goes to.
        preserve_fds: how many descriptors after the standard three reach the payload.
        stage: already spawned, while the configuration was read.
        systemd: the control group is to be a unit of systemd's.
    """

    __slots__ = (
        "config",
        "console_socket",
        "explain",
        "no_new_keyring",
        "no_pivot",
        "pid_file",
        "pidfd_socket",
        "preserve_fds",
        "stage",
        "systemd",
        "take_console",
        "warn",
    )

    def __init__(
        self,
        *,
        console_socket: str = "",
        take_console: Callable[[int], None] | None = None,
        no_new_keyring: bool = False,
        no_pivot: bool = False,
        pid_file: str = "",
        pidfd_socket: str = "",
        preserve_fds: int = 0,
        explain: Callable[[str], None] | None = None,
    ) -> None:
        self.config = b""
        self.console_socket = console_socket
        self.explain = explain
        self.take_console = take_console
        self.no_new_keyring = no_new_keyring
        self.no_pivot = no_pivot
        self.pid_file = pid_file
        self.pidfd_socket = pidfd_socket
        self.preserve_fds = preserve_fds
        self.stage: Stage | None = None
        self.warn: Callable[[str], None] | None = None
        self.systemd = False


def create_from_bundle(
    store: Store, container_id: str, bundle: str, options: CreateOptions
) -> Record:
    """Read a bundle's configuration and make its container, see `create`.

    The first stage is spawned before anything is read: it starts up meanwhile.
    """
    state.validate_id(container_id)
    options.stage = Stage(options.preserve_fds + handover.listen_fds())
    try:
        options.config = read_config(bundle)
        spec = decode(options.config, f"{bundle}/config.json")
        record = create(store, container_id, spec, bundle, options)
    except BaseException:
        options.stage.abort()
        raise
    return record


def create(
    store: Store, container_id: str, spec: Spec, bundle: str, options: CreateOptions
) -> Record:
    """Make a container whose first process waits for `start`.

    Whatever fails, nothing is left: no process, no cgroup, no state.

    Args:
        store: where it is remembered.
        container_id: its id.
        spec: decoded configuration.
        bundle: absolute path.
        options: of the command line.

    Returns:
        Its record, phase "created", as saved.

    Raises:
        ConfigError: the configuration cannot be carried out.
        ContainerExists: the id is taken.
        StageError: a step inside the container failed.
        HookError: a hook failed.
        CgroupError: a limit cannot be set.
    """
    bundle = os.path.abspath(bundle)
    validate(spec, bundle)
    if options.warn is not None:
        for problem in warnings(spec["process"], "$.process", spec.get("mounts")):
            options.warn(problem)
    _check_terminal(spec["process"], options)
    stage = options.stage or Stage(options.preserve_fds + handover.listen_fds())
    before = interrupt.raise_on_signals()
    try:
        handover.adopt_listen_fds(spec["process"], options)
        with store.lock(container_id, create=True, command="create"):
            directory = store.reserve(container_id)
            record = new_record(container_id, spec, bundle, systemd=options.systemd)
            try:
                write_config(directory, options.config or read_config(bundle), statedir.NEW_CONFIG)
                _launch(store, record, spec, options, stage)
            except BaseException:
                stage.abort()
                take_back(store, record)
                if record["pid"]:
                    _tell_hooks_it_ended(spec, record)
                raise
    except BaseException:
        stage.abort()
        raise
    finally:
        interrupt.restore(before)
    return record


def _launch(store: Store, record: Record, spec: Spec, options: CreateOptions, stage: Stage) -> None:
    """Everything between the first record and the last."""
    linux: Linux = spec.get("linux", {})
    directory = store.path(record["id"])
    # Moving a process takes the kernel a grace period, 10 ms or more. Stage 1 is still
    # starting up; what it forks is born in the cgroup.
    group.enter(store, record, linux, stage.first_pid)
    group.delegate(record, spec)
    if "rdt" in record:
        from migrate.runtime import resctrl

        resctrl.enter(record, linux["intelRdt"], stage.first_pid)
    os.rename(f"{directory}/{statedir.NEW_CONFIG}", f"{directory}/{statedir.CONFIG}")
    keyring = "" if options.no_new_keyring else f"_ses.{record['id']}"
    the_plan = plan.for_create(
        spec,
        container_id=record["id"],
        bundle=record["bundle"],
        rootfs=record["rootfs"],
        hierarchies=plan.named_hierarchies(record["cgroup"]),
        no_pivot=options.no_pivot,
        keyring=keyring,
        preserve_fds=options.preserve_fds,
    )
    if idmaps.in_user_namespace():
        # Root there has no more rights over the host than root of the container's own.
        the_plan["in_user_namespace"] = the_plan["process"]["may_keep_groups"] = True
    the_plan["process"]["filtered"] = "seccomp" in linux
    if options.explain is not None:
        for line in plan.describe(the_plan):
            options.explain(line)
    listener = door.listen(f"{directory}/{door.SOCKET}")
    try:
        pid = stage.fork(the_plan, (listener,), lambda pid: _write_maps(pid, linux))
    finally:
        os.close(listener)
    group.limit_last(record, linux)
    record["pid"] = pid
    record["pid_start_ticks"] = state.process_start_ticks(pid)
    if linux.get("netDevices"):
        from migrate.runtime import netdevices

        with netdevices.Moved(linux["netDevices"], pid):
            _finish(store, record, spec, options, stage)
    else:
        _finish(store, record, spec, options, stage)


def _finish(store: Store, record: Record, spec: Spec, options: CreateOptions, stage: Stage) -> None:
    """Help stage 2 set the container up, and let it wait for `start`."""
    pid = stage.pid

    def run_hooks(_body: bytes, _fds: list[int]) -> None:
        for kind in ("prestart", "createRuntime"):
            hooks.run(kind, spec, record, "creating", pid)
        stage.channel.send("HOOKED")

    stage.converse(
        {
            "SOURCE": lambda body, _fds: _send_tree(stage, body, spec),
            "HOOKS": run_hooks,
            "CONSOLE": lambda body, fds: handover.console(body, fds, options),
            "LIMITS": lambda _body, _fds: answer_limits(stage, spec["process"]),
        },
        meanwhile=lambda: prepare_filter(stage, spec.get("linux", {}).get("seccomp")),
    )
    record["stdio"] = [_link(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
    record["phase"] = "created"
    handover.announce(pid, options)
    # Released first: were we killed in between, the record would say "created" of a
    # process that is about to end. As "creating" the next create or delete clears it
    # away, the process that waits for its start, too.
    stage.release()
    store.save(record)
    stage.close()


def prepare_filter(stage: Stage, seccomp: Seccomp | None) -> None:
    """Make the system call filter, which takes libseccomp 20 ms, while the stage mounts."""
    if seccomp:
        from migrate.runtime import filters

        stage.filter = marshal.dumps(filters.compiled(seccomp))


def answer_limits(stage: Stage, process: Process) -> None:
    """Set the limits only the host's side may raise, late, since they bind init too.

    The answer brings the system call filter along.

    Raises:
        StageError: a limit is above what this host, or this user, allows.
    """
    pid = stage.pid
    if "scheduler" in process or "ioPriority" in process:
        from migrate.runtime import priorities

        priorities.apply(pid, process)
    if "oomScoreAdj" in process:
        path = f"/proc/{pid}/oom_score_adj"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(process["oomScoreAdj"]).encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise StageError(
                f"cannot set oomScoreAdj to {process['oomScoreAdj']}: "
                f"{str(error.strerror).lower()}",
                "A lower value than the caller's needs CAP_SYS_RESOURCE.",
            ) from None
    for limit in process.get("rlimits", []):
        try:
            syscalls.prlimit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except KernelError as error:
            raise StageError(
                f"cannot set {limit['type']} to {limit['soft']}/{limit['hard']}: "
                f"{os.strerror(error.errno).lower()}",
                "A hard limit above the caller's needs CAP_SYS_RESOURCE.",
            ) from None
    stage.channel.send("LIMITED", stage.filter)


def _check_terminal(process: Process, options: CreateOptions) -> None:
    """A terminal needs somebody who takes its master, and a taker a terminal."""
    has_taker = bool(options.console_socket or options.take_console)
    if process.get("terminal") and not has_taker:
        raise ConfigError(
            "$.process.terminal",
            "cannot allocate tty if migrate will detach without setting console socket",
            "Set $.process.terminal to false, give --console-socket, "
            "or use `migrate run` on a terminal.",
        )
    if has_taker and not process.get("terminal"):
        raise ConfigError(
            "$.process.terminal",
            "cannot use console socket if migrate will not detach or allocate tty",
            "Set $.process.terminal to true, or leave out --console-socket.",
        )


def new_record(container_id: str, spec: Spec, bundle: str, *, systemd: bool = False) -> Record:
    """Return the record of a container that is being made, before it has a process."""
    linux: Linux = spec.get("linux", {})
    record: Record = {
        "schema_version": state.SCHEMA_VERSION,
        "id": container_id,
        "bundle": bundle,
        "rootfs": rootfs_path(spec, bundle),
        "pid": 0,
        "pid_start_ticks": 0,
        "boot_id": state.boot_id(),
        "created": state.now_rfc3339(),
        "oci_version": spec["ociVersion"],
        "annotations": spec.get("annotations", {}),
        "owner": _owner(),
        "cgroup": {},
        "stdio": [],
        "terminal": spec["process"].get("terminal", False),
        "phase": "creating",
    }
    group.plan(record, linux, systemd=systemd)
    if "intelRdt" in linux:
        from migrate.runtime import resctrl

        resctrl.plan(record, linux["intelRdt"], resctrl.mount_point() or resctrl.DEFAULT)
    return record


def _owner() -> str:
    uid = os.getuid()
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def take_back(store: Store, record: Record) -> None:
    """Leave nothing of a container that could not be made."""
    try:
        group.leave(record)
    finally:
        store.remove(record["id"])


def _tell_hooks_it_ended(spec: Spec, record: Record) -> None:
    """Let poststop hooks undo what those of the create have done.

    runtime.md, "Lifecycle": a failed create goes on with the poststop hooks. What they
    say of themselves must not take the place of why the create failed.
    """
    try:
        hooks.run("poststop", spec, record, "stopped", 0)
    except HookError:
        return


def _write_maps(pid: int, linux: Linux) -> None:
    idmaps.write(pid, linux)


def _send_tree(stage: Stage, body: bytes, spec: Spec) -> None:
    """Open a bind source that the container's root may not reach, or not map the ids of."""
    source, recursive, mount = protocol.split(body, 3)
    flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
    try:
        fd = syscalls.open_tree(syscalls.AT_FDCWD, source, flags)
    except KernelError as error:
        reason = os.strerror(error.errno).lower()
        raise StageError(f"cannot bind {source}: {reason}") from None
    try:
        if mount:
            from migrate.runtime import idmapped

            idmapped.give_map(fd, spec["mounts"][int(mount)], stage.pid)
        stage.channel.send("TREE", fds=(fd,))
    finally:
        os.close(fd)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed by the caller, or not ours to see
        return ""
