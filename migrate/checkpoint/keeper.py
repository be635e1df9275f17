"""The process that fills a restored container's memory while it runs already.

Lives here: the keeper, a program of its own (its argument is the socket it is
told by) with the userfaultfds of all processes: its loop, and what it hears and says.
Must not live here: how memory is filled (`filling`), who starts it (`keeping`).

One thread does everything, in steps of a tenth of a millisecond. That is what makes it
right: between the read of a message and what follows from it no page is put anywhere.

It must not end before its work is done, or the processes go on with zeros for memory.
So it listens to no signal; if what started it is gone, it goes on alone; and if it
fails, it keeps the userfaultfds, and who misses a page waits.
"""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import sys
import time
from collections import deque

from migrate.checkpoint import keeper_talk
from migrate.checkpoint.filling import Filling, Process, exists
from migrate.checkpoint.keeper_journal import Journal
from migrate.checkpoint.pending import Pending
from migrate.checkpoint.supply import Store, Supply
from migrate.errors import CriuError, MigrateError

_RETRY_SECONDS = 0.001
_PROGRESS_SECONDS = 0.1
_LOOK_SECONDS = 1.0


class Parent:
    """What started the keeper, as long as it is there.

    Attributes:
        is_there: whether it has not ended, nor let go of this keeper.
        wants_filling: it has said that all memory is in its place.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._unsaid: deque[tuple[str, list[int], dict[str, object]]] = deque()
        self.is_there = True
        self.wants_filling = False
        self.has_let_go = False

    def fileno(self) -> int:
        """Return the descriptor it is heard on."""
        return self._connection.fileno()

    @property
    def is_late(self) -> bool:
        """Whether it has not been told everything."""
        return bool(self._unsaid)

    def say(self, say: str, descriptors: list[int] | None = None, **fields: object) -> None:
        """Tell it something; nothing waits for it to listen."""
        if self.is_there:
            self._unsaid.append((say, descriptors or [], fields))
            self.say_rest()

    def say_rest(self) -> None:
        """Tell what could not be told before."""
        while self._unsaid:
            say, descriptors, fields = self._unsaid[0]
            try:
                keeper_talk.send(self._connection, say, descriptors, **fields)
            except BlockingIOError:
                return
            except OSError:  # gone, which is heard too
                self._unsaid.clear()
                return
            self._unsaid.popleft()

    def hear(self) -> None:
        """Take in what it says, or that it is gone."""
        try:
            message = keeper_talk.receive(self._connection)
        except BlockingIOError:
            return
        if message is None:
            self.is_there = False
            self._unsaid.clear()
            # It waited for a restore that nobody waits for now.
            self.wants_filling = True
        elif message.say == "fill":
            self.wants_filling = True
        elif message.say == "end":
            self.has_let_go = True


class Keeper:
    """Fills the memory of processes, and answers those that cannot wait."""

    def __init__(
        self, parent: Parent, processes: list[Process], supply: Supply, journal: Journal
    ) -> None:
        self._parent = parent
        self._filling = Filling(processes, supply, journal, self._on_fork)
        self._by_descriptor: dict[int, Process] = {}
        self._epoll = select.epoll()
        self._is_done = False
        self._next_progress = 0.0

    def run(self, forked: dict[int, int]) -> None:
        """Work until everything is filled and nobody else has the userfaultfds.

        Args:
            forked: those of processes that an earlier keeper saw being forked, by index.
        """
        self._filling.recall(forked)
        self._epoll.register(self._parent, select.EPOLLIN)
        self._watch()
        self._parent.say("ready")
        while self._parent.is_there or not self._is_done:
            self._turn()

    def hold(self, why: str) -> None:
        """Keep the userfaultfds, and do nothing, until it does not matter any more."""
        self._parent.say("failed", why=why)
        while not self._parent.has_let_go:
            if not any(exists(each.descriptor) for each in self._filling.processes):
                return
            if self._parent.is_there:
                select.select([self._parent], [], [], _LOOK_SECONDS)
                self._parent.hear()
                self._parent.say_rest()
            else:
                time.sleep(_LOOK_SECONDS)

    def _turn(self) -> None:
        """Answer what has come, and fill a piece."""
        for descriptor, _ in self._epoll.poll(self._patience()):
            process = self._by_descriptor.get(descriptor)
            if process is not None:
                self._filling.answer(process)
                continue
            self._parent.hear()
            if not self._parent.is_there:
                self._epoll.unregister(self._parent)
        self._watch()
        self._filling.retry()
        if self._parent.wants_filling:
            self._filling.fill()
        self._tell()

    def _patience(self) -> float:
        """Return how long to wait for the next message, in seconds."""
        if self._parent.wants_filling and self._filling.can_go_on:
            return 0
        return _RETRY_SECONDS if self._filling.is_late or self._parent.is_late else -1

    def _tell(self) -> None:
        """Tell the parent how far it is."""
        self._parent.say_rest()
        if self._is_done:
            return
        total = self._filling.total_bytes
        if self._filling.is_complete and self._parent.wants_filling:
            self._is_done = True
            self._parent.say("progress", filled=total, total=total)
            self._parent.say("done")
        elif not self._parent.is_late and time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + _PROGRESS_SECONDS
            self._parent.say("progress", filled=total - self._filling.left_bytes, total=total)

    def _on_fork(self, index: int, descriptor: int) -> None:
        """Let the parent have the userfaultfd of a process that was forked."""
        self._parent.say("forked", [descriptor], process=index)

    def _watch(self) -> None:
        """Hear from now on what new processes say."""
        for process in self._filling.processes[len(self._by_descriptor) :]:
            self._epoll.register(process.descriptor, select.EPOLLIN)
            self._by_descriptor[process.descriptor] = process


class _Task:
    """What the parent gives at the beginning."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        descriptor, self.journal = self._expect("task")
        table = keeper_talk.Table.read(descriptor)
        number = len(table.counts)
        descriptors: list[int] = []
        while len(descriptors) < 2 * number + len(table.forked):
            descriptors += self._expect("more")
        self.processes = []
        begin = 0
        for index, count in enumerate(table.counts):
            end = begin + 2 * count
            store = Store(descriptors[number + index])
            pending = Pending(table.spans[begin:end])
            self.processes.append(Process(index, descriptors[index], store, pending))
            begin = end
        self.forked = dict(zip(table.forked, descriptors[2 * number :], strict=True))

    def _expect(self, say: str) -> list[int]:
        """Return the descriptors that come with the next message."""
        message = keeper_talk.receive(self._connection)
        if message is None or message.say != say:
            raise CriuError(f"keeper of memory was not told its {say}")
        if len(message.descriptors) != message.fields["count"]:
            raise CriuError(
                "keeper of memory may not open two files for each process: "
                "the limit of open files is too low"
            )
        return message.descriptors


def main() -> int:
    """Run a keeper; its exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        task = _Task(connection)
        keeper = Keeper(Parent(connection), task.processes, Supply(), Journal(task.journal))
    except (MigrateError, OSError) as error:
        with contextlib.suppress(OSError):  # it was never told what to do
            keeper_talk.send(connection, "failed", why=str(error))
        return 1
    try:
        keeper.run(task.forked)
    except Exception as error:  # noqa: BLE001 - whatever it is, the userfaultfds must be held
        keeper.hold(str(error))
        return 1
    return 0
