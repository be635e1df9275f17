"""A keeper, seen from the process that starts it.

Lives here: Keeping, which starts a keeper, holds what outlives it, and starts another
one where it was killed. Must not live here: what a keeper does (`keeper`). May be
imported by `checkpoint` and `live`.

    Keeping()           the keeper's interpreter starts
    start(processes)    it answers faults; fills at once, or not before `fill`
    wait()              everything is filled, and nothing is held any more
    close()             let go: the keeper goes on alone, if it is not done

While this object holds its duplicates of the userfaultfds, processes whose keeper was
killed wait for the pages they miss. If this process is killed, the keeper goes on.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Self

from migrate.checkpoint import keeper_talk, own_program
from migrate.checkpoint.keeper_journal import make_journal
from migrate.errors import CriuError

_HINT = "Call restart, or kill the container: it waits for memory that nobody fills."


@dataclass(slots=True, frozen=True, kw_only=True)
class Kept:
    """One process whose memory is to be filled.

    Attributes:
        pid: its number inside the container.
        userfaultfd: as CRIU sent it; stays the caller's.
        store: of a file with the page of address A at offset A, open for reading and
            writing, from which everything is taken out; stays the caller's.
        spans: address and size of what is to be filled, none across two mappings.
    """

    pid: int
    userfaultfd: int
    store: int
    spans: Sequence[tuple[int, int]]


@dataclass(slots=True, frozen=True)
class Progress:
    """How far a keeper is, in bytes."""

    filled: int = 0
    total: int = 0


class Keeping:
    """One keeper at a time, and what it needs.

    Args:
        log: descriptor for what the keeper's interpreter says when it breaks, or None.
    """

    def __init__(self, *, log: int | None = None) -> None:
        self._log = -1 if log is None else os.dup(log)
        self._change = threading.Condition()
        self._counts = array.array("Q")
        self._spans = array.array("Q")
        self._userfaultfds: list[int] = []
        self._stores: list[int] = []
        self._forked: dict[int, int] = {}
        self._journal = make_journal()
        self._progress = Progress()
        self._may_fill = False
        self._is_ready = False
        self._is_done = False
        self._is_closed = False
        self._problem = ""
        self._spawn()

    @property
    def progress(self) -> Progress:
        """How far the keeper is."""
        return self._progress

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        return self._process.pid

    def start(self, processes: Iterable[Kept], *, fill: bool = True) -> None:
        """Hand over the processes; return once the keeper answers their faults.

        Args:
            fill: begin to fill everything. Only where all mappings are in their place,
                which they are at CRIU's `post-restore`: what has no mapping is given up.

        Raises:
            CriuError: the keeper failed or died.
        """
        for each in processes:
            self._userfaultfds.append(os.dup(each.userfaultfd))
            self._stores.append(os.dup(each.store))
            self._counts.append(len(each.spans))
            self._spans.extend(chain.from_iterable(each.spans))
        self._may_fill = fill
        self._begin()

    def fill(self) -> None:
        """Begin to fill everything: all mappings are in their place."""
        self._may_fill = True
        with contextlib.suppress(OSError):  # its death is found by who waits for it
            keeper_talk.send(self._socket, "fill")

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until everything is filled; tell whether it is.

        Raises:
            CriuError: the keeper failed or died before that. The container's processes
                wait for what they miss.
        """
        with self._change:
            self._change.wait_for(lambda: self._is_done or self._problem, timeout_seconds)
            if self._problem:
                raise CriuError(self._problem, _HINT)
            return self._is_done

    def restart(self) -> None:
        """Start another keeper where one died or failed; it goes on where that one was.

        Raises:
            CriuError: it failed too.
        """
        if self._is_done:
            return
        # What is lost of a keeper that failed is in the journal, as of one that died.
        self._process.kill()
        self._watcher.join()
        self._problem = ""
        self._spawn()
        self._begin()

    def close(self) -> None:
        """Let go of everything; a keeper that is not done goes on alone. May be repeated.

        Where no keeper is left that could go on, the container must be dead already: it
        would get zeros for what it misses.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._problem:
            with contextlib.suppress(OSError):
                keeper_talk.send(self._socket, "end")
        with contextlib.suppress(OSError):  # wakes the watcher, which ends what is left
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._counts:
            self._process.kill()  # it was never told what to do
        if self._is_done or self._problem or not self._counts:
            self._watcher.join()
        self._let_go()
        for descriptor in (*self._stores, self._journal, self._log):
            if descriptor >= 0:
                os.close(descriptor)

    def _spawn(self) -> None:
        """Start the keeper's interpreter."""
        self._is_ready = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = self._log if self._log >= 0 else subprocess.DEVNULL
        number = theirs.fileno()
        with theirs:
            self._process = own_program.start(
                "migrate.checkpoint.keeper", [str(number)], pass_fds=[number], output=output
            )
        # Short of memory, the kernel should look elsewhere: others depend on this one.
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{self.pid}/oom_score_adj", "wb", buffering=0) as file,
        ):
            file.write(b"-1000")
        self._watcher = threading.Thread(
            target=self._watch, args=(self._socket, self._process), name="keeping", daemon=True
        )
        self._watcher.start()

    def _begin(self) -> None:
        """Give the keeper everything there is; return once it is ready."""
        table = keeper_talk.Table(self._counts, array.array("Q", self._forked), self._spans).write()
        with contextlib.suppress(OSError):  # its death is found below
            self._give("task", [table, self._journal])
            everything = [*self._userfaultfds, *self._stores, *self._forked.values()]
            for begin in range(0, len(everything), keeper_talk.DESCRIPTORS_AT_ONCE):
                self._give("more", everything[begin : begin + keeper_talk.DESCRIPTORS_AT_ONCE])
            if self._may_fill:
                keeper_talk.send(self._socket, "fill")
        os.close(table)
        with self._change:
            self._change.wait_for(lambda: self._is_ready or self._problem)
            if self._problem:
                raise CriuError(self._problem, _HINT)

    def _give(self, say: str, descriptors: list[int]) -> None:
        """Let the keeper have descriptors."""
        keeper_talk.send(self._socket, say, descriptors, count=len(descriptors))

    def _watch(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Hear what one keeper says, until its end."""
        with connection:
            while message := keeper_talk.receive(connection):
                with self._change:
                    self._note(message)
                    self._change.notify_all()
                if self._is_done:
                    break
        status = process.wait()
        with self._change:
            if not (self._is_done or self._is_closed or self._problem):
                how = f"killed by signal {-status}" if status < 0 else f"ended with {status}"
                self._problem = f"keeper of the container's memory was {how}"
            self._change.notify_all()

    def _note(self, message: keeper_talk.Message) -> None:
        """Take in what the keeper says."""
        if message.say == "ready":
            self._is_ready = True
        elif message.say == "progress":
            self._progress = Progress(**message.fields)
        elif message.say == "forked":
            # None came where this process may not open more: then another keeper cannot
            # go on for that process, and says so.
            for descriptor in message.descriptors:
                self._forked[message.fields["process"]] = descriptor
        elif message.say == "done":
            # From now on only the keeper answers, until it hears that nobody else could.
            self._let_go()
            self._is_done = True
        elif message.say == "failed":
            self._problem = f"keeper of the container's memory failed: {message.fields['why']}"

    def _let_go(self) -> None:
        """Close the duplicates of the userfaultfds."""
        for descriptor in (*self._userfaultfds, *self._forked.values()):
            os.close(descriptor)
        self._userfaultfds, self._forked = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
