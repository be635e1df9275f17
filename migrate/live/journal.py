"""The journal: what one side of one migration has decided, able to survive it.

Lives here: the file, its folder, and the lock on it. Must not live here: what a record
looks like (`live.records`), what follows from it (`live.decision`). `live` only.

    FOLDER/source/ID-HASH/       0700, flock(2) on the folder itself: whoever
        journal                  drives or recovers the migration holds it
    FOLDER/destination/ID-HASH/
        journal
        socket                   while a held container waits (`live.agent`)

HASH is of the state root, since ids are unique only below one. The folder is also
what keeps a second migration of the same container out: mkdir(2) is exclusive.

The file is written full of zeros first and records replace the zeros: a full disk cannot
stop a decision halfway, and a record costs one fdatasync(2) of one block.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any, Self

from migrate.errors import Locked, MigrateError, MigrationError, Undecided
from migrate.live import faults
from migrate.live.phases import AnyPhase, Side
from migrate.live.records import SUM_DIGITS, Kind, Record, encode, may_stand, replay
from migrate.runtime.state import boot_id, process_start_ticks, validate_id

FOLDER_VARIABLE = "MIGRATE_JOURNAL"
FOLDER_OF_ROOT = "/var/lib/migrate"
FILE = "journal"
ROOM_BYTES = 64 << 10
LARGEST_BYTES = 4 << 20


def default_folder(explicit: str | None) -> str:
    """Return where journals live: the option, MIGRATE_JOURNAL, or the usual place.

    It must outlive a reboot, which is why it is not below the state root.
    """
    if chosen := explicit or os.environ.get(FOLDER_VARIABLE):
        return os.path.abspath(chosen)
    if os.geteuid() == 0:
        return FOLDER_OF_ROOT
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{home}/migrate"


def folder_of(journals: str, side: Side, root: str, container_id: str) -> str:
    """Return the folder of one side's migration of a container."""
    validate_id(container_id)
    digest = hashlib.sha256(os.path.abspath(root).encode()).hexdigest()[:8]
    # An id may be longer than a file name may be; what is cut off is in the hash.
    if len(container_id) > 200:
        digest += hashlib.sha256(container_id.encode()).hexdigest()[:16]
    return f"{journals}/{side}/{container_id[:200]}-{digest}"


class Journal:
    """One side's journal of one migration, open and locked.

    Made by `create` or `open`; close it, or use it in a `with`.

    Attributes:
        folder: of this migration on this side.
        records: all so far.
    """

    def __init__(self, side: Side, folder: str, lock_fd: int) -> None:
        self.side: Side = side
        self.folder = folder
        self.records: list[Record] = []
        self._lock_fd = lock_fd
        self._fd = -1
        self._end = 0
        self._sum = ""
        self._boot = boot_id()
        self._pid = os.getpid()
        self._start_ticks = process_start_ticks(self._pid)

    @classmethod
    def create(cls, side: Side, folder: str) -> Self:
        """Claim the folder for a new migration.

        Raises:
            Locked: it belongs to a migration that is under way, or was interrupted.
            MigrationError: it cannot be written.
        """
        journal = None
        try:
            _make(side, folder)
            journal = cls(side, folder, _lock(folder, 1.0))
            journal._fd = os.open(
                f"{folder}/{FILE}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            _write_at(journal._fd, bytes(ROOM_BYTES), 0)
            os.fsync(journal._fd)
            _sync_folder(folder)
            _sync_folder(os.path.dirname(folder))
        except OSError as error:
            if journal is not None:
                with contextlib.suppress(OSError):
                    journal.remove()
            raise MigrationError(
                f"journal folder {folder}: {(error.strerror or str(error)).lower()}",
                f"Give a writable folder by --journal-dir or {FOLDER_VARIABLE}.",
            ) from error
        return journal

    @classmethod
    def open(cls, side: Side, folder: str, timeout_seconds: float = 0.0) -> Self:
        """Open an existing journal and read it.

        Raises:
            FileNotFoundError: there is no such migration (any more).
            Locked: somebody drives or recovers it and did not end in time.
            Undecided: it is damaged.
        """
        journal = cls(side, folder, _lock(folder, timeout_seconds))
        try:
            journal._fd = os.open(f"{folder}/{FILE}", os.O_RDWR | os.O_CLOEXEC)
            content = os.pread(journal._fd, LARGEST_BYTES, 0)
            journal.records, journal._end, journal._sum = replay(side, content)
            # What was cut short goes, so that no later, shorter line ends inside it.
            if content[journal._end :].strip(b"\0"):
                _write_at(journal._fd, bytes(len(content) - journal._end), journal._end)
                os.fdatasync(journal._fd)
        except FileNotFoundError:
            # Its maker died between mkdir and the first record: nothing was done yet.
            journal._fd = os.open(f"{folder}/{FILE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except MigrateError as error:
            journal.close()
            raise type(error)(f"{folder}/{FILE}: {error.message}", error.hint) from None
        except BaseException:
            journal.close()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reached(self) -> AnyPhase | None:
        """The phase of the last result, or None."""
        return next((r.phase for r in reversed(self.records) if r.kind == "result"), None)

    @property
    def pending(self) -> AnyPhase | None:
        """The phase whose intent is the last record, or None."""
        last = self.records[-1] if self.records else None
        return last.phase if last is not None and last.kind == "intent" else None

    @property
    def same_boot(self) -> bool:
        """Whether the machine has not been restarted since the first record."""
        return not self.records or self.records[0].boot == self._boot

    def fact(self, name: str) -> Any:
        """Return the latest value recorded under a name, or None."""
        for record in reversed(self.records):
            if name in record.facts:
                return record.facts[name]
        return None

    def intend(
        self,
        phase: AnyPhase,
        facts: Mapping[str, object] | None = None,
        *,
        durable: bool = True,
        **more: object,
    ) -> None:
        """Record what is about to be done; see `enter`."""
        self._append("intent", phase, {**(facts or {}), **more}, durable=durable)

    def enter(
        self,
        phase: AnyPhase,
        facts: Mapping[str, object] | None = None,
        *,
        durable: bool = True,
        **more: object,
    ) -> None:
        """Record what has been done.

        Args:
            facts: what recovery needs to know; `more` are further ones by name.
            durable: fdatasync before returning. Not needed for a record that is
                only of use while the memory of this boot is (frozen tasks, images
                in a tmpfs): being killed loses nothing that was written.

        Raises:
            MigrationError: it could not be written; the journal is as before.
            Undecided: it could not be written, nor taken back.
        """
        self._append("result", phase, {**(facts or {}), **more}, durable=durable)

    def _append(
        self, kind: Kind, phase: AnyPhase, facts: Mapping[str, object], *, durable: bool
    ) -> None:
        name = phase.value if kind == "result" else f"intent.{phase.value}"
        if not may_stand(self.records, phase):
            raise MigrationError(
                f"{self.side}: {name} cannot follow {self.reached and self.reached.value}"
            )
        faults.strike(self.side, "before", name)
        record = Record(
            sequence=len(self.records),
            kind=kind,
            phase=phase,
            at_seconds=time.time(),
            boot=self._boot,
            pid=self._pid,
            start_ticks=self._start_ticks,
            facts=facts,
        )
        line = encode(record, self._sum)
        try:
            _write_at(self._fd, line, self._end)
            if durable:
                os.fdatasync(self._fd)
        except OSError as error:
            self._take_back(len(line), error)
        self.records.append(record)
        self._end += len(line)
        self._sum = line[-3 - SUM_DIGITS : -3].decode()
        faults.strike(self.side, "after", name)

    def _take_back(self, length: int, error: OSError) -> None:
        """Undo half a record, and raise."""
        problem = f"journal {self.folder}: {(error.strerror or str(error)).lower()}"
        try:
            os.pwrite(self._fd, bytes(length), self._end)
            os.fdatasync(self._fd)
        except OSError:
            raise Undecided(problem, "Make the folder writable, then run recover.") from error
        raise MigrationError(problem, "Make room on its disk.") from error

    def remove(self) -> None:
        """Forget the migration, and close."""
        try:
            _clear(self.folder)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the lock; closing alone would not, while a forked child has it."""
        if self._lock_fd >= 0:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            os.close(self._lock_fd)
            self._lock_fd = -1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def driver_of(folder: str) -> int:
    """Return the pid of the last writer of a journal, if that process still lives, or 0."""
    try:
        with open(f"{folder}/{FILE}", "rb") as file:
            records, _, _ = replay(_side_of(folder), file.read(LARGEST_BYTES))
    except (OSError, Undecided):
        return 0
    if not records or records[-1].boot != boot_id():
        return 0
    last = records[-1]
    return last.pid if process_start_ticks(last.pid) == last.start_ticks else 0


def _side_of(folder: str) -> Side:
    """Return whose folder it is."""
    side = os.path.basename(os.path.dirname(folder))
    return "destination" if side == "destination" else "source"


def _taken(side: Side, folder: str) -> tuple[str, str]:
    """Return message and hint for a folder that is there already."""
    name = os.path.basename(folder).rpartition("-")[0]
    pid = driver_of(folder)
    if pid:
        return (
            f'container "{name}" is being migrated by pid {pid}',
            "Wait for it to end.",
        )
    return (
        f'an earlier migration of container "{name}" was interrupted on this {side}',
        f"Run `migrate recover {name}`.",
    )


def _lock(folder: str, timeout_seconds: float) -> int:
    """Return a descriptor of the folder, locked and still the folder of that name."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(fd), os.stat(folder, follow_symlinks=False)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise Locked(*_taken(_side_of(folder), folder)) from None
            time.sleep(0.02)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _make(side: Side, folder: str) -> None:
    """Make a migration's folder, which must be new."""
    while True:
        os.makedirs(os.path.dirname(folder), 0o700, exist_ok=True)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            raise Locked(*_taken(side, folder)) from None
        except FileNotFoundError:  # another migration ended, and took the empty parent along
            continue
        return


def _clear(folder: str) -> None:
    """Remove a migration's folder, its journal last but one: without it, it is over."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        os.unlink(f"{folder}/{name}")
    os.rmdir(folder)
    _sync_folder(os.path.dirname(folder))
    with contextlib.suppress(OSError):  # others are in it
        os.rmdir(os.path.dirname(folder))


def _write_at(fd: int, content: bytes, offset: int) -> None:
    """Write all of it; pwrite(2) may do less."""
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: str) -> None:
    """Make the entries of a folder last through a power cut, see fsync(2)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
