"""Stage 2 of `create`: make the container around this process, wait, become it.

Lives here: the order of things. Must not live here: how each is done. The process
is pid 1 of the container's pid namespace where it has one.
"""

from __future__ import annotations

import _socket
import os

from migrate import syscalls
from migrate.errors import MigrateError, StageError
from migrate.runtime import door, protocol
from migrate.runtime.init import console, credentials, devices, hooks, kernelfiles, labels, mounts
from migrate.runtime.init import process as payload
from migrate.runtime.init.context import Context, close_all_but
from migrate.runtime.init.rootfs import attach, move_to_root, pivot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

OPERATIONS: dict[str, Any] = {
    **mounts.OPERATIONS,
    **devices.OPERATIONS,
    **kernelfiles.OPERATIONS,
}


def run(channel: protocol.Channel, plan: dict[str, Any], fds: list[int]) -> NoReturn:
    """Set up the container and become its payload when `start` says so.

    Args:
        channel: to `launch`.
        plan: see `runtime.plan`.
        fds: one, the listening socket for `start`.
    """
    try:
        channel.expect("GO")
        root = set_up(channel, plan)
        process = plan["process"]
        pairs = payload.environment(process, root)
        os.close(root.fd)
        # With another user's ids the parent may no longer raise a limit of ours.
        channel.send("LIMITS")
        process["filter"], _ = channel.expect("LIMITED")
        payload.become(process)
        program = payload.find_program(process["args"][0], pairs.get("PATH"))
        channel.send("READY")
        channel.expect("RELEASE")
        channel.close()
        # Whoever shares the pid namespace sees what is open here: nothing but what the
        # payload gets, and the socket.
        close_all_but(3 + process["preserve_fds"], fds[0])
    except BaseException as error:  # noqa: BLE001 - the process ends here
        channel.report(error)
        os._exit(1)
    wait_and_execute(plan, fds[0], program, pairs)


def set_up(channel: protocol.Channel, plan: dict[str, Any]) -> Any:
    """Everything that makes a container of the namespaces.

    Order: the cgroup namespace is made once the process is in its cgroup, which
    becomes the root seen inside. Hooks of the runtime's side come after the
    mounts, those of the container's side after them, both before the pivot. What
    makes things read-only comes last, since hooks may add to the root.
    """
    if plan["cgroup_namespace"]:
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    os.umask(0)
    os.setsid()
    if plan["keyring"]:
        labels.label_keys(plan["process"])
        credentials.join_session_keyring(plan["keyring"])
    root = attach(plan)
    context = Context(plan, root, channel)
    _carry_out(context, plan["operations"])
    if plan["wants_hooks"]:
        channel.send("HOOKS")
        channel.expect("HOOKED")
    if plan["hooks"]["createContainer"]:
        os.fchdir(root.fd)
        state = state_for_hooks(plan, "creating")
        hooks.run_all("createContainer", plan["hooks"]["createContainer"], state)
    process = plan["process"]
    if process["terminal"]:
        console.set_up(context, process["console_size"], make_node=True)
    else:
        context.reopen_null()
    if plan["no_pivot"]:
        move_to_root(root)
    else:
        pivot(root)
    labels.label_next_execve(process)
    _carry_out(context, plan["last_operations"])
    os.close(root.proc)
    return root


def state_for_hooks(plan: dict[str, Any], status: str) -> bytes:
    """The container's state as JSON, with the pid as the container sees it."""
    text: str = plan["state"]
    return f'{text[:-1]},"status":"{status}","pid":{os.getpid()}}}'.encode()


def _carry_out(context: Context, operations: list[tuple[Any, ...]]) -> None:
    for name, *arguments in operations:
        try:
            OPERATIONS[name](context, *arguments)
        except MigrateError as error:
            raise StageError(_worded(name, arguments, error), error.hint) from None
        except OSError as error:
            reason = str(error.strerror).lower()
            raise StageError(_worded(name, arguments, reason)) from None


def _worded(name: str, arguments: list[Any], error: object) -> str:
    """An operation's failure with the place it was to happen at."""
    first = arguments[0] if arguments else ""
    if isinstance(first, dict):
        first = first.get("destination") or first.get("path")
    return f"{name} {first}: {error}"


def wait_and_execute(
    plan: dict[str, Any], listener_fd: int, program: str, pairs: dict[str, str]
) -> NoReturn:
    """Wait for `start`, and become the payload.

    The connection of `start` is close-on-exec: its end tells that execve worked,
    and any text before it that something did not.
    """
    listener = _socket.socket(fileno=listener_fd)
    while True:
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - the C module has no other
        connection = _socket.socket(fileno=fd)
        if connection.recv(len(door.START_WORD)) == door.START_WORD:
            break
        connection.close()
    try:
        payload.seal(plan["process"], lambda fd: door.send_listener(connection, fd))
        if plan["hooks"]["startContainer"]:
            state = state_for_hooks(plan, "created")
            hooks.run_all("startContainer", plan["hooks"]["startContainer"], state)
        payload.execute(program, plan["process"], pairs)
    except BaseException as error:  # noqa: BLE001 - the process ends here
        message = error.message if isinstance(error, MigrateError) else repr(error)
        connection.sendall(message.encode("utf-8", "surrogateescape"))
        os._exit(1)
