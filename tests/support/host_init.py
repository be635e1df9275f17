"""The first process of a host: mounts what is the host's own, starts and reaps processes.

    python -m tests.support.host_init NAME CONTROL_FD PLAN_JSON

It runs as process 1 of new mount, uts, ipc, net, pid and cgroup namespaces,
joined to `tests.support.hosts` by a SEQPACKET socket. Each request on it is the
JSON of `argv`, `env`, `cwd` with four descriptors: stdin, stdout, stderr and the
pipe that later takes the exit status. The answer carries a pidfd. What is
started is a child of this process, so everything in the host behaves as on a
machine: orphans come here and are reaped. When the socket closes, whoever made
the host is gone, and the host ends with everything in it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from tests.support import kernel
from tests.support.cgroups import mount_hierarchies

MESSAGE_BYTES = 1 << 18


def mount_own(plan: dict[str, Any]) -> None:
    """Give this host its own /proc, /sys, /run, /dev/shm and private folders."""
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.umount2("/proc", kernel.MNT_DETACH)
    kernel.mount("proc", "/proc", "proc", quiet | kernel.MS_NOEXEC)
    mount_hierarchies([tuple(row) for row in plan["cgroups"]])
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", quiet)
    kernel.make_root_read_only(plan["writable"])
    for source, target in plan["binds"]:
        kernel.mount(source, target, None, kernel.MS_BIND)
    # CRIU keeps what it learnt about the kernel only where /run is a tmpfs.
    kernel.mount("tmpfs", "/run", "tmpfs", quiet, "mode=755")
    os.makedirs("/run/sshd", mode=0o755)


def _exec(request: dict[str, Any], stdio: list[int], until_exec: int) -> NoReturn:
    """Become the requested program, in a session of its own; `until_exec` closes then."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        os.closerange(3, until_exec)
        os.closerange(until_exec + 1, 4096)
        os.chdir(request["cwd"])
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except BaseException as error:  # noqa: BLE001 - the child must never return
        os.write(2, f"{request['argv'][0]}: {error}\n".encode())
    finally:
        os._exit(127)


class Init:
    """The loop of process 1."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.status_pipes: dict[int, int] = {}
        self.wake, wake_write = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write)

    def serve(self) -> None:
        """Answer requests and reap, until the other end is gone."""
        while True:
            ready, _, _ = select.select([self.control.fileno(), self.wake], [], [])
            if self.wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake, 4096)
                self.reap()
            if self.control.fileno() in ready:
                message, fds, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 4)
                if not message:
                    return
                self.start(json.loads(message), fds)

    def start(self, request: dict[str, Any], fds: list[int]) -> None:
        """Start one process and answer with its pid and pidfd."""
        *stdio, status_pipe = fds
        started, until_exec = os.pipe()
        pid = os.fork()
        if pid == 0:
            _exec(request, stdio, until_exec)
        os.close(until_exec)
        os.read(started, 1)  # whoever asked will find the program, not a copy of this one
        pidfd = os.pidfd_open(pid)
        self.status_pipes[pid] = status_pipe
        answer(self.control, pid, pidfd)
        for fd in (*stdio, started, pidfd):
            os.close(fd)

    def reap(self) -> None:
        """Collect every child that ended; report those that were asked for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            pipe = self.status_pipes.pop(pid, None)
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(pipe)


def answer(control: socket.socket, pid: int, pidfd: int) -> None:
    """Send a pid and its pidfd to the other end."""
    rights = array.array("i", [pidfd])
    control.sendmsg(
        [json.dumps({"pid": pid}).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    )


def end_everything() -> None:
    """Kill all and thaw all: a frozen v1 task would keep this namespace alive for ever."""
    for _ in range(500):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        for state in Path("/sys/fs/cgroup").glob("**/freezer.state"):
            with contextlib.suppress(OSError):
                state.write_text("THAWED")
        for state in Path("/sys/fs/cgroup").glob("**/cgroup.freeze"):
            with contextlib.suppress(OSError):
                state.write_text("0")
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def main() -> None:
    """Set the host up, say so, and serve it."""
    name, control_fd, plan = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    socket.sethostname(name)
    control = socket.socket(fileno=control_fd)
    mount_own(plan)
    init = Init(control)
    own = os.pidfd_open(os.getpid())
    answer(control, os.getpid(), own)
    os.close(own)
    try:
        init.serve()
    finally:
        end_everything()


if __name__ == "__main__":
    main()
