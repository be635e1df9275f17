"""Where containers are remembered: one directory each under the state root.

Lives here: ids, the record of a container, its lock, its status, and the one way
to reach its process without meeting a reused pid. Must not live here: what a
command does with a container. May be imported by every room above `runtime`.

    ROOT/ID/            0700
        config.json     the bytes `create` was given
        state.json      the record; replaced whole, never written in place
        lock            flock(2); holds the pid and command of the holder, for people
        start.fifo      between `create` and `start` only

A record survives its writer being killed at any byte: the new content goes to a
temporary file, which is synced and renamed, and then the directory is synced.
This file is on the path of every command: it imports only what costs nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from migrate.errors import (
    BrokenState,
    ContainerExists,
    ContainerNotFound,
    Locked,
    StateError,
)
from migrate.runtime import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal, Self, TypedDict

    Status = Literal["creating", "created", "running", "paused", "stopped"]

    class Record(TypedDict):
        """The content of state.json.

        Attributes:
            schema_version: 1; a newer one is refused, not guessed at.
            bundle: absolute path.
            rootfs: absolute path.
            pid: of the container's first process; 0 while creating.
            pid_start_ticks: field 22 of /proc/PID/stat, see proc(5).
            boot_id: of the boot the pid belongs to.
            created: RFC 3339, UTC.
            cgroup: hierarchy key (see `runtime.cgroup`) to absolute directory.
            stdio: what the first process's descriptors 0 to 2 were, as readlink says.
            phase: creating, created or started.
        """

        schema_version: int
        id: str
        bundle: str
        rootfs: str
        pid: int
        pid_start_ticks: int
        boot_id: str
        created: str
        oci_version: str
        annotations: dict[str, str]
        owner: str
        cgroup: dict[str, str]
        stdio: list[str]
        terminal: bool
        phase: str


SCHEMA_VERSION = 1
PHASES = ("creating", "created", "started")
ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
ID_LONGEST = 1024
# A state file is some kilobytes; annotations of engines make it tens.
LARGEST_STATE_BYTES = 16 << 20
LOCK_FIRST_PAUSE_SECONDS = 0.0005
LOCK_LONGEST_PAUSE_SECONDS = 0.02

_FIELDS: dict[str, type] = {
    "schema_version": int,
    "id": str,
    "bundle": str,
    "rootfs": str,
    "pid": int,
    "pid_start_ticks": int,
    "boot_id": str,
    "created": str,
    "oci_version": str,
    "annotations": dict,
    "owner": str,
    "cgroup": dict,
    "stdio": list,
    "terminal": bool,
    "phase": str,
}


def validate_id(container_id: str) -> None:
    """Refuse an id that is not a plain name.

    An id becomes a directory and a cgroup: `.`, `..`, `/` and anything a shell or
    a terminal could read as more than a name are refused, and so is a leading dot,
    which is where the migrations keep their own directories.

    Raises:
        StateError: with runc's words.
    """
    if (
        not container_id
        or len(container_id) > ID_LONGEST
        or container_id.startswith(".")
        or not ID_CHARACTERS.issuperset(container_id)
    ):
        raise StateError(
            f"invalid id format: {container_id!r}",
            "Use letters, digits and _ + - . only, not starting with a dot.",
        )


def boot_id() -> str:
    """Return the kernel's id of this boot, see random(4)."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def now_rfc3339() -> str:
    """Return the wall clock as Go's RFC3339Nano writes it: UTC, no trailing zeros."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def _process_stat(pid: int) -> tuple[str, int] | None:
    """Return the state letter and start time of a process, or None without it."""
    try:
        content = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, field 2, is in parentheses and may itself hold any of them.
    fields = content[content.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def process_start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it is gone."""
    found = _process_stat(pid)
    return found[1] if found else 0


def _is_alive(record: Record) -> bool:
    """Tell whether the recorded process is there, is the same one, and is no zombie."""
    if record["pid"] <= 0 or record["boot_id"] != boot_id():
        return False
    found = _process_stat(record["pid"])
    return found is not None and found[0] not in "ZX" and found[1] == record["pid_start_ticks"]


def status(record: Record) -> Status:
    """Return the container's status as the runtime-spec names it, plus `paused`."""
    if record["pid"] == 0 and record["phase"] == "creating":
        return "creating"
    if not _is_alive(record):
        return "stopped"
    from migrate.runtime.cgroup.freezer import frozen_state

    if frozen_state(record["cgroup"]) == "FROZEN":
        return "paused"
    if record["phase"] == "started":
        return "running"
    return "created" if record["phase"] == "created" else "creating"


def open_pidfd(record: Record) -> int | None:
    """Return a descriptor of the recorded process itself, or None if it is gone.

    The descriptor comes first and the start time is compared after it: whatever
    the pid names by then, the descriptor names the process that was compared, or
    one that has ended. See pidfd_open(2).
    """
    if record["pid"] <= 0 or record["boot_id"] != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record["pid"])
    except ProcessLookupError:
        return None
    if process_start_ticks(record["pid"]) != record["pid_start_ticks"]:
        os.close(pidfd)
        return None
    return pidfd


class Lock:
    """Sole use of one container's directory, as a context manager.

    Made by `Store.lock`. When the directory was made for it (`create`) and no
    record is in it at the end, the directory goes again: a `create` that failed
    leaves nothing.

    Attributes:
        fd: the locked descriptor, close-on-exec. A child that is forked and does
            not exec shares the lock, and must close it.
    """

    def __init__(
        self, store: Store, container_id: str, timeout_seconds: float, *, create: bool
    ) -> None:
        self._store = store
        self._id = container_id
        self._timeout_seconds = timeout_seconds
        self._create = create
        self.command = ""
        self.fd = -1

    def __enter__(self) -> Self:
        """Wait for the lock, at most until the deadline.

        Raises:
            ContainerNotFound: there is no such container, or it was deleted meanwhile.
            Locked: the deadline passed; the message names the holder.
        """
        deadline = time.monotonic() + self._timeout_seconds
        pause = LOCK_FIRST_PAUSE_SECONDS
        while not self._try():
            if time.monotonic() >= deadline:
                raise Locked(
                    f'container "{self._id}" is in use by {self._holder()}',
                    "Wait for that command, or end it.",
                )
            time.sleep(pause)
            pause = min(pause * 2, LOCK_LONGEST_PAUSE_SECONDS)
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()} {self.command}\n".encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go; closing alone would not, while a forked child still has it."""
        try:
            if self._create and not os.path.exists(self._store.state_path(self._id)):
                self._store.remove(self._id)
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)
            self.fd = -1

    def _try(self) -> bool:
        """Take the lock if it is free and still the container's own."""
        directory = self._store.path(self._id)
        if self._create:
            self._store.make_root()
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                pass
        path = f"{directory}/lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            if self._create:  # deleted between mkdir and open: once more
                return False
            raise ContainerNotFound(self._id, self._store.root) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(fd), os.stat(path, follow_symlinks=False)
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                self.fd, fd = fd, -1
                return True
        except BlockingIOError:
            return False
        except FileNotFoundError:  # deleted while we came in: the next round says so
            return False
        finally:
            if fd >= 0:
                os.close(fd)
        return False

    def _holder(self) -> str:
        """Name who has the lock, in words."""
        try:
            text = _read(f"{self._store.path(self._id)}/lock").strip()
        except OSError:
            text = ""
        pid, _, command = text.partition(" ")
        if not pid.isdigit():
            return "another command"
        return f"`migrate {command} {self._id}` (pid {pid})" if command else f"pid {pid}"


class Store:
    """All containers under one state root.

    Args:
        root: the directory; made, 0700, by the first `create`.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def path(self, container_id: str) -> str:
        """Return the container's directory; the id is checked, the directory not."""
        validate_id(container_id)
        return f"{self.root}/{container_id}"

    def state_path(self, container_id: str) -> str:
        """Return where the container's record is."""
        return f"{self.path(container_id)}/state.json"

    def exists(self, container_id: str) -> bool:
        """Tell whether there is a record, readable or not."""
        return os.path.exists(self.state_path(container_id))

    def ids(self) -> list[str]:
        """Return the ids of all directories that may be containers, sorted."""
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if _is_valid_id(name))

    def make_root(self) -> None:
        """Make the state root where it is not there yet."""
        if not os.path.isdir(self.root):
            os.makedirs(self.root, 0o700, exist_ok=True)

    def lock(
        self,
        container_id: str,
        *,
        timeout_seconds: float = 10.0,
        command: str = "",
        create: bool = False,
    ) -> Lock:
        """Return the container's lock, to be used in a `with`.

        Args:
            timeout_seconds: how long another holder is waited for.
            command: named in the error of whoever waits in vain.
            create: make the directory where there is none.
        """
        lock = Lock(self, container_id, timeout_seconds, create=create)
        lock.command = command
        return lock

    def reserve(self, container_id: str) -> str:
        """Claim an id for a new container and return its directory.

        Called with the lock held (`create=True`). What a `create` that was killed
        left behind is cleared away first: its record says `creating`, and since
        the lock is ours, its writer is gone.

        Raises:
            ContainerExists: the id belongs to a container.
        """
        directory = self.path(container_id)
        if self.exists(container_id):
            try:
                record = self.load(container_id)
            except BrokenState:
                raise ContainerExists(container_id) from None
            if record["phase"] != "creating":
                raise ContainerExists(container_id)
            from migrate.runtime.delete import clear_away

            clear_away(record)
        for name in os.listdir(directory):
            if name != "lock":
                os.unlink(f"{directory}/{name}")
        return directory

    def load(self, container_id: str) -> Record:
        """Return a container's record.

        Raises:
            ContainerNotFound: there is none.
            BrokenState: the file is torn, foreign, or of a newer version.
        """
        path = self.state_path(container_id)
        try:
            content = _read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            raise ContainerNotFound(container_id, self.root) from None
        except OSError as error:
            raise self._broken(container_id, str(error.strerror).lower()) from None
        try:
            data = jsontext.loads(content)
        except ValueError as error:
            raise self._broken(container_id, str(error)) from None
        return self._checked(container_id, data)

    def _checked(self, container_id: str, data: object) -> Record:
        """Return what was read as a record, or say why it is none."""
        if not isinstance(data, dict) or "schema_version" not in data:
            raise self._broken(container_id, "not written by this program")
        if data["schema_version"] != SCHEMA_VERSION:
            raise self._broken(container_id, f"schema version {data['schema_version']!r} is not 1")
        for name, kind in _FIELDS.items():
            if type(data.get(name)) is not kind:
                raise self._broken(container_id, f"{name} is missing or no {kind.__name__}")
        for name in ("annotations", "cgroup"):
            if not all(isinstance(value, str) for value in data[name].values()):
                raise self._broken(container_id, f"{name} holds what is no text")
        if not all(isinstance(value, str) for value in data["stdio"]):
            raise self._broken(container_id, "stdio holds what is no text")
        if data["phase"] not in PHASES or data["id"] != container_id:
            raise self._broken(container_id, "phase or id is not this container's")
        record: Record = data  # type: ignore[assignment]  # each field checked above
        return record

    def _broken(self, container_id: str, problem: str) -> BrokenState:
        """Return the error for a state file that cannot be used."""
        return BrokenState(
            f'state of container "{container_id}" is broken: {problem}',
            f"Look at {self.state_path(container_id)}, or run "
            f"`migrate delete --force {container_id}`.",
        )

    def save(self, record: Record) -> None:
        """Replace a container's record, so that either the old or the new is there."""
        directory = self.path(record["id"])
        temporary = f"{directory}/.state.json.{os.getpid()}"
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        try:
            with open(fd, "wb", buffering=0) as file:
                _write_all(file.fileno(), jsontext.dumps(record).encode())
                os.fsync(fd)
            os.rename(temporary, f"{directory}/state.json")
        except BaseException:
            os.unlink(temporary)
            raise
        sync_directory(directory)

    def remove(self, container_id: str) -> None:
        """Forget a container: its record first, then the rest of its directory."""
        directory = self.path(container_id)
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        # The record goes first, the lock last: in between, the id is neither a
        # container nor free, and whoever looks meanwhile waits for the lock.
        for name in sorted(names, key=lambda name: (name != "state.json", name == "lock")):
            _remove_entry(f"{directory}/{name}")
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def sync_directory(path: str) -> None:
    """Make the entries of a directory last through a power cut, see fsync(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_valid_id(name: str) -> bool:
    """Tell whether a directory's name could be an id."""
    try:
        validate_id(name)
    except StateError:
        return False
    return True


def _remove_entry(path: str) -> None:
    """Remove a file, or a directory somebody put there, never following a link."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        with os.scandir(path) as entries:
            inside = [entry.path for entry in entries]
        for entry in inside:
            _remove_entry(entry)
        os.rmdir(path)


def _read_bytes(path: str) -> bytes:
    """Return a small file's content."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        parts = []
        left = LARGEST_STATE_BYTES + 1
        while left > 0:
            part = os.read(fd, min(left, 1 << 16))
            if not part:
                break
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    if left <= 0:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return b"".join(parts)


def _read(path: str) -> str:
    """Return a small file's content as text."""
    return _read_bytes(path).decode(errors="replace")


def _write_all(fd: int, content: bytes) -> None:
    """Write all of it; write(2) may do less."""
    while content:
        content = content[os.write(fd, content) :]
