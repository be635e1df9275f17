"""One conversation with one `criu swrk` process.

Lives here: starting CRIU with a clean environment, the messages over a
SEQPACKET socket pair, notifications and the descriptors that come with them.
Must not live here: which options a request carries (`options`), what a failure
means (`failure`). May be imported by `checkpoint` only.

CRIU speaks protobuf, one message a packet (criu.org/RPC, images/rpc.proto):

    we:   criu_req{DUMP, opts}          ── once ──▶
    CRIU: criu_resp{NOTIFY, script}     ◀── at each of its stages, it waits
    we:   criu_req{NOTIFY, success}     ──▶
    CRIU: criu_resp{DUMP, success}      ◀── at the end

pycriu's own loop answers no notifications, so this one stands in its place;
pycriu gives the message classes.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

from migrate.errors import CriuError

# CRIU runs ip, iptables, tar and modprobe by name and resolves ~; nothing else of the
# caller's environment may reach it: CRIU_CONFIG_FILE, LD_* and TAR_OPTIONS would be obeyed.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C",
}
_MAX_DESCRIPTORS = 16
_STDERR_TAIL_BYTES = 4096

# A restored container inherits from CRIU what CRIU does not restore itself: the control
# groups (they are IGNOREd) and their namespace; and it is made of the mounts CRIU sees. So
# CRIU is started in a place made for it, by two shells that become it, with no fork left
# over. All mounts are in a namespace of its own: whatever dies, nothing is left mounted.
# `$0` is the descriptor, `$1` CRIU; then see `Place`.
_ENTER = """
criu=$1 rootfs=$2 root=$3 masked=$4 inside=$5
shift 5
while [ "$1" != -- ]; do
    echo 0 > "$1" || exit 126
    shift
done
shift
exec "$@" unshare --mount --propagation slave -- \\
    /bin/sh -c "$inside" "$0" "$criu" "$rootfs" "$root" "$masked"
"""
_INSIDE = """
mount --rbind -- "$2" "$3" && mount -t tmpfs -o ro,mode=755 tmpfs "$4" || exit 126
exec "$1" swrk "$0"
"""


@dataclass(slots=True, frozen=True, kw_only=True)
class Place:
    """Where a restoring CRIU lives.

    Attributes:
        rootfs: directory on the host that becomes the container's root.
        root: empty directory it is mounted on, recursively; CRIU's `root`.
        masked: empty directory, to be a read-only empty file system.
        cgroup_procs: `cgroup.procs` files to join.
        cgroup_namespace: `new` to make one rooted in those groups, a path to join
            one, "" to stay in this one.
        images_group: group that must be able to read the images, because CRIU
            restores within a user namespace; None where it does not.
    """

    rootfs: str
    root: str
    masked: str
    cgroup_procs: tuple[str, ...] = ()
    cgroup_namespace: str = ""
    images_group: int | None = None

    def command(self, criu: str, descriptor: int) -> list[str]:
        """Return the command line that becomes `criu swrk DESCRIPTOR` there."""
        enter: list[str] = []
        if self.cgroup_namespace == "new":
            enter = ["unshare", "--cgroup", "--"]
        elif self.cgroup_namespace:
            enter = ["nsenter", f"--cgroup={self.cgroup_namespace}", "--"]
        return [
            *("/bin/sh", "-c", _ENTER, str(descriptor)),
            *(criu, self.rootfs, self.root, self.masked, _INSIDE),
            *(*self.cgroup_procs, "--", *enter),
        ]


@dataclass(slots=True)
class Notification:
    """A stage CRIU has reached; it waits until the handler returns.

    Attributes:
        script: CRIU's name of the stage, such as `post-dump`.
        pid: the restored first process, where CRIU tells it, else 0.
        descriptors: descriptors that came along; those a handler `take`s are
            its own, the rest are closed when it returns.
    """

    script: str
    pid: int = 0
    descriptors: list[int] = field(default_factory=list)

    def take(self) -> int:
        """Return the first descriptor that came along; the caller closes it."""
        return self.descriptors.pop(0)


Handler = Callable[[Notification], bool]


class RequestFailed(CriuError):
    """CRIU answered no, or went away; the cause is in its log (`failure`).

    Attributes:
        errno: CRIU's own number, 0 where it gave none.
        answered: CRIU itself said no; else it went away.
        pid: of the first process of a failed restore, which is to be reaped, or 0.
    """

    def __init__(
        self, message: str, errno: int = 0, pid: int = 0, *, answered: bool = False
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.errno = errno
        self.pid = pid


class Session:
    """One `criu swrk` process and the conversation with it.

    Args:
        criu: absolute path.
        pass_fds: descriptors CRIU inherits under the same numbers
            (`inherit_fd`, `ps.fd`); they stay open here.
        place: where a restoring CRIU lives, None for a dumping one.
        own_group: keep the terminal's signals from CRIU, which may hold tasks half
            dumped; not for a shell job, which gets its process group from CRIU.

    The process starts at once: a session made early is warm when it is needed.
    Leaving the `with` closes the conversation and waits for CRIU to end; CRIU
    is never killed, because it may hold tasks half dumped.
    """

    def __init__(
        self,
        criu: str,
        *,
        pass_fds: Sequence[int] = (),
        place: Place | None = None,
        own_group: bool = True,
    ) -> None:
        from pycriu import rpc

        self._rpc = rpc
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        number = theirs.fileno()
        try:
            self._process = subprocess.Popen(
                place.command(criu, number) if place else [criu, "swrk", str(number)],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                cwd="/",
                env=_ENVIRONMENT,
                pass_fds=(number, *pass_fds),
                process_group=0 if own_group else None,
                # SIGPIPE stays ignored: a page stream that breaks must be an error to
                # CRIU, not its death with tasks in its hands.
                restore_signals=False,
            )
        except OSError as error:
            self._socket.close()
            self._stderr.close()
            raise CriuError(f"{criu} cannot be started: {error.strerror}") from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """CRIU's process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether CRIU has not ended yet."""
        return self._process.poll() is None

    def options(self) -> Any:
        """Return an empty `criu_opts` message."""
        return self._rpc.criu_opts()

    def request(
        self,
        kind: str,
        options: Any = None,
        handlers: Mapping[str, Handler] | None = None,
        acknowledged: Mapping[str, Callable[[], None]] | None = None,
        **fields: Any,
    ) -> Any:
        """Send one request and answer CRIU's notifications until its response.

        A handler that raises makes CRIU abort cleanly (as if it had returned
        False); the exception is raised here once CRIU has answered.

        Args:
            kind: name of a `criu_req_type`, such as `DUMP`.
            options: a filled `criu_opts`, or None.
            handlers: by notification name; an absent one answers yes.
            acknowledged: called right after CRIU was answered yes, while it goes on.
            **fields: further fields of `criu_req`, such as `keep_open`.

        Raises:
            RequestFailed: CRIU answered no, or went away.
        """
        rpc = self._rpc
        request = rpc.criu_req(type=rpc.criu_req_type.Value(kind), **fields)
        if options is not None:
            request.opts.CopyFrom(options)
        self._send(request)
        raised: BaseException | None = None
        while True:
            response, descriptors = self._receive()
            if response.type != rpc.NOTIFY:
                break
            notification = Notification(response.notify.script, response.notify.pid, descriptors)
            agreed = False
            try:
                handler = (handlers or {}).get(notification.script)
                agreed = raised is None and (handler is None or handler(notification))
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised = error
            finally:
                for descriptor in notification.descriptors:
                    os.close(descriptor)
            self._send(rpc.criu_req(type=rpc.NOTIFY, notify_success=agreed))
            if agreed and acknowledged and notification.script in acknowledged:
                acknowledged[notification.script]()
        if raised is not None:
            raise raised
        if not response.success:
            raise RequestFailed(
                response.cr_errmsg.strip() or f"criu refused {kind.lower()}",
                response.cr_errno,
                max(response.restore.pid, 0),
                answered=True,
            )
        return response

    def close(self) -> int:
        """End the conversation and return CRIU's exit status, once it has ended."""
        # Closing alone would not wake a thread that waits for CRIU's next word, nor tell
        # CRIU, for as long as that thread waits.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        status = self._process.wait()
        self._stderr.close()
        return status

    def _send(self, message: Any) -> None:
        """Send one message, or tell why CRIU is gone."""
        try:
            self._socket.send(message.SerializeToString())
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def _receive(self) -> tuple[Any, list[int]]:
        """Return the next message and the descriptors that came with it."""
        try:
            size = self._socket.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
            if size == 0:
                raise self._gone()
            data, ancillary, _, _ = self._socket.recvmsg(
                size,
                socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize),
                socket.MSG_CMSG_CLOEXEC,
            )
        except ConnectionResetError:
            raise self._gone() from None
        descriptors = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(payload) - len(payload) % descriptors.itemsize
                descriptors.frombytes(payload[:whole])
        response = self._rpc.criu_resp()
        response.ParseFromString(data)
        return response, list(descriptors)

    def _gone(self) -> RequestFailed:
        """Return the error for a CRIU that ended without an answer."""
        status = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _STDERR_TAIL_BYTES))
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        return RequestFailed(f"criu {how} without an answer" + (f": {said[-1]}" if said else ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
