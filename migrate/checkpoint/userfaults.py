"""The userfaultfds of a lazy restore, as CRIU sends them.

Lives here: Collector, which stands where `criu lazy-pages` would. Must not live here:
what is done with them (`keeping`). May be imported by `checkpoint` and `live`.

`criu restore --lazy-pages` connects to `lazy-pages.socket` in its work directory before
it does anything else. Each process that it restores sends (criu/uffd.c):

    its number inside the container, as an int; negative for a zombie
    one byte with its userfaultfd, not for a zombie

and at the end, before anything runs, CRIU sends one int more, `RSTF`.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

from migrate.errors import CriuError

SOCKET = "lazy-pages.socket"
_FINISHED = 0x52535446
_INT = struct.Struct("=i")


class Collector:
    """Waits in CRIU's work directory; one restore's userfaultfds.

    Args:
        directory: CRIU's work directory.
    """

    def __init__(self, directory: str) -> None:
        self._change = threading.Condition()
        self._taken: dict[int, int] = {}
        self._seen: set[int] = set()
        self._is_finished = False
        self._has_ended = False
        self._problem = ""
        self._connection: socket.socket | None = None
        self._directory = -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # By descriptor: a path to a socket must not be longer than 107 bytes.
            path = f"/proc/self/fd/{self._directory}/{SOCKET}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(SOCKET, dir_fd=self._directory)
            self._listener.bind(path)
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            if self._directory >= 0:
                os.close(self._directory)
            raise CriuError(
                f"{directory}/{SOCKET}: {str(error.strerror).lower()}",
                "Give a work directory that can be written to.",
            ) from error
        self._thread = threading.Thread(target=self._run, name="userfaults", daemon=True)
        self._thread.start()

    def wait(self, processes: set[int], timeout_seconds: float) -> bool:
        """Wait for processes; tell whether all are there, or are zombies.

        Args:
            processes: numbers inside the container.

        Raises:
            CriuError: CRIU ended, or sent something else, before that.
        """
        deadline = time.monotonic() + timeout_seconds

        def missing() -> set[int]:
            return processes - self._seen

        with self._change:
            while missing() and not self._has_ended:
                if not self._change.wait(deadline - time.monotonic()):
                    return False
            if left := sorted(missing()):
                raise CriuError(
                    self._problem or f"criu ended before it sent the memory of process {left[0]}"
                )
            return True

    @property
    def is_finished(self) -> bool:
        """Whether CRIU has said that the restore is finished."""
        return self._is_finished

    def taken(self) -> dict[int, int]:
        """Return the userfaultfd of each process; they are open until `let_go` or `close`."""
        with self._change:
            return dict(self._taken)

    def let_go(self) -> None:
        """Close the userfaultfds there are: somebody else has them. CRIU may go on.

        While they are open here, processes wait for pages that nobody gives them any more
        once the keeper is done.
        """
        with self._change:
            for descriptor in self._taken.values():
                os.close(descriptor)
            self._taken = {}

    def close(self) -> None:
        """Close everything; may be repeated.

        A restore that is not finished fails by it. A process whose userfaultfd nobody
        else has gets zeros for what it misses.
        """
        if self._directory < 0:
            return
        # Waken the thread, wherever it is.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._change:
            self._has_ended = True
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET, dir_fd=self._directory)
        os.close(self._directory)
        self._directory = -1
        self.let_go()

    def _run(self) -> None:
        """Take in one connection."""
        try:
            connection, _ = self._listener.accept()
        except OSError:  # closed
            return
        with connection:
            with self._change:
                if self._has_ended:
                    return
                self._connection = connection
            try:
                while self._take(connection):
                    pass
            except CriuError as error:
                self._problem = error.message
            except OSError:
                pass  # CRIU is gone, which is an end like any other
            with self._change:
                self._connection = None
        with self._change:
            self._has_ended = True
            self._change.notify_all()

    def _take(self, connection: socket.socket) -> bool:
        """Take one process in; tell whether there may be more."""
        data = b""
        while len(data) < _INT.size:
            part = connection.recv(_INT.size - len(data))
            if not part:
                return False
            data += part
        (pid,) = _INT.unpack(data)
        if pid == _FINISHED:
            self._is_finished = True
            return True
        descriptor = -1 if pid < 0 else _receive(connection, pid)
        with self._change:
            if pid in self._seen:
                os.close(descriptor)
                raise CriuError(f"criu sent the memory of process {pid} twice")
            self._seen.add(abs(pid))
            if descriptor >= 0:
                self._taken[pid] = descriptor
            self._change.notify_all()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _receive(connection: socket.socket, pid: int) -> int:
    """Return the descriptor that comes with one byte."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(payload) == size:
            return int(array.array("i", payload)[0])
    raise CriuError(
        f"criu sent no userfaultfd for process {pid}" if data else f"criu ended at process {pid}"
    )
