"""Putting pages where a restored process misses them.

Lives here: Process, one userfaultfd and what is still missing behind it, and Filling,
which fills them all. Must not live here: whom it is told (`keeper`), where pages come
from (`supply`). `checkpoint.keeper` only. See userfaultfd(2) and ioctl_userfaultfd(2).

A process that unmaps, moves or forks memory, or gives it back, waits until its message
is read; while it waits the kernel refuses to put pages (EAGAIN). What it does with a
mapping beside that, such as mprotect(2), comes without a message, and may part one
mapping into two, which no piece may cross (ENOENT).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from migrate.checkpoint.keeper_journal import Entry, Journal
from migrate.checkpoint.pending import Pending, Run
from migrate.checkpoint.supply import Store, Supply
from migrate.errors import CriuError, KernelError
from migrate.syscalls.userfaultfd import (
    UFFD_EVENT_FORK,
    UFFD_EVENT_PAGEFAULT,
    UFFD_EVENT_REMAP,
    uffdio_copy,
    uffdio_wake,
    uffdio_zeropage,
)

PAGE_BYTES = 4096
# Who misses a page will soon miss those behind it.
_NEIGHBOURS_BYTES = 64 << 10
# How many messages of one process are answered before another's turn.
_MESSAGES_AT_ONCE = 64
_NOT_NOW = frozenset({errno.EAGAIN, errno.ENOMEM})
_IS_GONE = frozenset({errno.ESRCH, errno.ENOSPC})
# All addresses of a process; of one of 32 bits.
_LOWEST_ADDRESS = 0x1000
_ADDRESS_ENDS = (0x7FFF_FFFF_F000, 0xC000_0000)


@dataclass(slots=True, eq=False)
class Process:
    """A process whose memory is filled.

    Attributes:
        index: its number here, not its pid.
        descriptor: its userfaultfd.
        owed: pages that it waits for and could not be given yet.
        must_wait: an event is on its way, or memory is short; nothing goes until later.
        is_settled: nothing is to be filled any more.
        is_gone: it has ended, or runs another program.
    """

    index: int
    descriptor: int
    store: Store
    pending: Pending
    owed: set[int] = field(default_factory=set)
    must_wait: bool = False
    is_settled: bool = False
    is_gone: bool = False


class Filling:
    """The memory of all processes.

    Args:
        processes: by their index; those that are forked are added.
        on_fork: told of a new process, its index and its userfaultfd, before all else:
            if the keeper is killed in between, nobody can fill that process.

    Attributes:
        total_bytes: everything that was ever to be filled.
    """

    def __init__(
        self,
        processes: list[Process],
        supply: Supply,
        journal: Journal,
        on_fork: Callable[[int, int], None],
    ) -> None:
        self.processes = processes
        self.total_bytes = sum(each.pending.size for each in processes)
        self._supply = supply
        self._journal = journal
        self._on_fork = on_fork
        self._late: set[Process] = set()
        self._unfilled = deque(processes)

    @property
    def left_bytes(self) -> int:
        """How much is still to be filled."""
        return sum(each.pending.size for each in self._unfilled)

    @property
    def is_complete(self) -> bool:
        """Whether everything is filled."""
        return all(each.is_settled for each in self._unfilled)

    @property
    def is_late(self) -> bool:
        """Whether anything was put off."""
        return bool(self._late)

    @property
    def can_go_on(self) -> bool:
        """Whether there is something to fill that need not wait."""
        return any(not (each.must_wait or each.is_settled) for each in self._unfilled)

    def recall(self, forked: dict[int, int]) -> None:
        """Take up where another left off, by its journal.

        Args:
            forked: userfaultfds of processes it saw being forked, by their index.

        Raises:
            CriuError: one of them is missing, so its memory is lost.
        """
        for entry in self._journal.entries():
            if entry.event == UFFD_EVENT_FORK:
                self._fork(entry, forked.get(len(self.processes), -1))
            else:
                self._change(entry)
        for process in self.processes:
            self._settle(process)
            _wake_all(process.descriptor)

    def answer(self, process: Process) -> None:
        """Read what a process says, and do what it needs."""
        for _ in range(_MESSAGES_AT_ONCE):
            entry = self._journal.read(process.index, process.descriptor)
            if entry is None:
                return
            if entry.event == UFFD_EVENT_PAGEFAULT:
                self._serve(process, entry.second & -PAGE_BYTES)
            elif entry.event == UFFD_EVENT_FORK:
                descriptor = entry.first & 0xFFFF_FFFF
                self._on_fork(len(self.processes), descriptor)
                self._fork(entry, descriptor)
            else:
                self._change(entry)
                self._settle(process)

    def retry(self) -> None:
        """Do what was put off."""
        late, self._late = self._late, set()
        for process in late:
            process.must_wait = False
            owed, process.owed = process.owed, set()
            for page in owed:
                self._serve(process, page)

    def fill(self) -> None:
        """Fill one piece of what is left."""
        for _ in range(len(self._unfilled)):
            process = self._unfilled[0]
            if process.is_settled:
                self._unfilled.popleft()
            elif process.must_wait:
                self._unfilled.rotate(-1)
            else:
                self._put(process, process.pending.first())
                return

    def _change(self, entry: Entry) -> None:
        """Follow what became of a process's memory."""
        process = self.processes[entry.process]
        if entry.event == UFFD_EVENT_REMAP:
            process.pending.move(entry.first, entry.second, entry.third)
        else:  # filled, unmapped or given back
            process.pending.drop(entry.first, entry.second)

    def _fork(self, entry: Entry, descriptor: int) -> None:
        """Take in a process that was forked; it misses what its parent misses."""
        parent = self.processes[entry.process]
        index = len(self.processes)
        if descriptor < 0:
            raise CriuError("memory is lost of a process that was forked as its keeper died")
        child = Process(index, descriptor, parent.store, parent.pending.copy())
        child.store.users += 1
        self.total_bytes += child.pending.size
        self.processes.append(child)
        self._unfilled.append(child)
        self._settle(child)

    def _serve(self, process: Process, page: int) -> None:
        """Give a process a page that it waits for."""
        if process.is_gone:
            return
        run = process.pending.find(page)
        if run is None:
            done = self._zero(process, page)
        else:
            end = page - page % _NEIGHBOURS_BYTES + _NEIGHBOURS_BYTES
            done = self._put(process, run.part(page, end))
        if not done and not process.is_gone:
            process.owed.add(page)
            self._late.add(process)

    def _zero(self, process: Process, page: int) -> bool:
        """Give a process a page of zeros; tell whether it need not wait any more."""
        try:
            uffdio_zeropage(process.descriptor, page, PAGE_BYTES)
        except KernelError as error:
            return bool(self._refused(process, page, error))
        return True

    def _put(self, process: Process, run: Run) -> bool:
        """Fill the beginning of a run, as much as goes at once; tell whether any of it was."""
        source, size = self._supply.page(process.store, run.offset, run.size)
        while True:
            try:
                if source:
                    done = uffdio_copy(process.descriptor, run.start, source, size)
                else:
                    done = uffdio_zeropage(process.descriptor, run.start, size)
            except KernelError as error:
                if error.errno == errno.ENOENT and size > PAGE_BYTES:
                    size = max(size // 2 & -PAGE_BYTES, PAGE_BYTES)
                    continue
                done = self._refused(process, run.start, error)
            break
        if done:
            self._journal.filled(process.index, run.start, run.start + done)
            process.pending.drop(run.start, run.start + done)
            self._settle(process)
        return bool(done)

    def _refused(self, process: Process, page: int, error: KernelError) -> int:
        """Return how many bytes are not missing any more, although nothing was put there."""
        if error.errno in {errno.EEXIST, errno.ENOENT}:
            # It is there, or nothing can be there any more: who waits shall look again.
            uffdio_wake(process.descriptor, page, PAGE_BYTES)
            return PAGE_BYTES
        if error.errno in _NOT_NOW:
            process.must_wait = True
            self._late.add(process)
            return 0
        if error.errno in _IS_GONE:
            self._bury(process)
            return 0
        raise error

    def _bury(self, process: Process) -> None:
        """Forget a process that is gone, or runs another program."""
        process.is_gone = True
        process.owed = set()
        process.pending.drop(0, _ADDRESS_ENDS[0])
        self._late.discard(process)
        self._settle(process)

    def _settle(self, process: Process) -> None:
        """Give back what of a store nobody needs any more."""
        store = process.store
        if process.pending:
            if store.users == 1:
                store.give_back(process.pending.lowest_offset())
        elif not process.is_settled:
            process.is_settled = True
            store.users -= 1
            if not store.users:
                store.give_all_back()


def exists(descriptor: int) -> bool:
    """Tell whether the process of a userfaultfd is there, and runs what it ran."""
    try:
        uffdio_zeropage(descriptor, _LOWEST_ADDRESS, PAGE_BYTES)
    except KernelError as error:
        return error.errno not in _IS_GONE
    return True


def _wake_all(descriptor: int) -> None:
    """Make everybody who waits ask again: whom they asked first may be gone."""
    for end in _ADDRESS_ENDS:
        try:
            uffdio_wake(descriptor, _LOWEST_ADDRESS, end - _LOWEST_ADDRESS)
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return
