"""Stage 2 of `exec`: a process more in a container that is there already.

Lives here: the order of things. The process is in the container's namespaces and
cgroup; what is around it belongs to the container and is not trusted.
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.runtime.init import console, credentials, labels
from migrate.runtime.init import process as payload
from migrate.runtime.init.context import Context
from migrate.runtime.init.rootfs import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from migrate.runtime.protocol import Channel


def run(channel: Channel, plan: dict[str, Any], _fds: list[int]) -> NoReturn:
    """Take on the container's limits and become the payload."""
    try:
        channel.expect("GO")
        process = plan["process"]
        os.setsid()
        if plan["keyring"]:
            labels.label_keys(process)
            credentials.join_session_keyring(plan["keyring"])
        root_fd = os.open("/", syscalls.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        root = Root(root_fd, -1)
        context = Context(plan, root, channel)
        if process["terminal"]:
            console.set_up(context, process["console_size"], make_node=False)
        else:
            context.reopen_null()
        labels.label_next_execve(process)
        pairs = payload.environment(process, root)
        os.close(root_fd)
        # With another user's ids the parent may no longer raise a limit of ours.
        channel.send("LIMITS")
        process["filter"], _ = channel.expect("LIMITED")
        payload.become(process)
        program = payload.find_program(process["args"][0], pairs.get("PATH"))
        channel.send("READY")
        channel.expect("RELEASE")
        payload.seal(process, lambda fd: channel.send("LISTENER", fds=(fd,)))
        payload.execute(program, process, pairs)
    except BaseException as error:  # noqa: BLE001 - the process ends here
        channel.report(error)
    os._exit(1)
