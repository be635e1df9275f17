"""Entry of the interpreter that `launch` spawns: read the plan, run its stage.

Lives here: the imports of everything init will ever need, the wording of what
goes wrong, and the end of the process whatever happens. Run by `launch` only.
"""

from __future__ import annotations

import marshal
import os

from migrate import syscalls
from migrate.runtime import protocol
from migrate.runtime.init import create, execute, namespaces
from migrate.runtime.init.closing import close_imports
from migrate.runtime.init.signals import reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def main(fd: int) -> NoReturn:
    """Be stage 1, and in its child stage 2, of what the plan on the channel says."""
    channel = protocol.Channel.adopt(fd)
    try:
        reset_signals()
        body, fds = channel.expect("PLAN")
        plan: dict[str, Any] = marshal.loads(body)  # noqa: S302 - written by our parent
        stage2 = {"create": create.run, "exec": execute.run}[plan["stage"]]
        syscalls.prctl(syscalls.PR_SET_NAME, b"migrate-init")
        for name in plan["rare"]:
            __import__(f"migrate.runtime.init.{name}")
        close_imports()
        namespaces.enter(channel, plan, fds)
        pid = namespaces.fork()
        if pid == 0 and plan.get("adopted"):
            # Its parent ends in the container's pid namespace: the first process there
            # becomes its parent, and where that goes, it goes.
            pid = namespaces.fork()
        if pid == 0:
            channel.send("CHILD")
            stage2(channel, plan, fds)
    except BaseException as error:  # noqa: BLE001 - the process ends here
        channel.report(error)
        os._exit(1)
    # Not sys.exit: nothing of this process's may run again, in parent or child.
    os._exit(0)
