"""Where containers are remembered: one directory each under the state root.

Lives here: ids, the record of a container, its status, and the one way to reach its
process without meeting a reused pid. Must not live here: what a command does with a
container, how a directory is touched (`statedir`), the lock itself (`lock`). May be
imported by every room above `runtime`.

    ROOT/ID/            0700
        config.json     the bytes `create` was given, until `update` sets other limits
        state.json      the record; replaced whole, never written in place
        lock            flock(2); holds the pid and command of the holder, for people
        start.sock      between `create` and `start` only
        migration       while the container is being moved; commands keep away

A record survives its writer being killed at any byte: the new content goes to a
temporary file, which is synced and renamed, and then the directory is synced.
This file is on the path of every command: it imports only what costs nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from migrate.errors import BrokenState, ContainerExists, ContainerNotFound, StateError
from migrate.runtime import jsontext, statedir
from migrate.runtime.lock import Lock, moving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, NotRequired, TypedDict

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
            systemd: bus, unit and slice, where the cgroup is a unit's; absent otherwise.
            rdt: groups of resctrl (see `runtime.resctrl`); absent without `intelRdt`.
            mounted: what was mounted for it, such as an overlay on the rootfs, and is
                unmounted when it is deleted; absent where nothing was.
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
        systemd: NotRequired[dict[str, str]]
        rdt: NotRequired[dict[str, str]]
        mounted: NotRequired[list[str]]


SCHEMA_VERSION = 1
PHASES = ("creating", "created", "started")
ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
ID_LONGEST = 1024
LARGEST_PID = 1 << 22  # PID_MAX_LIMIT of 64-bit kernels
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
    a terminal could read as more than a name are refused.

    Raises:
        StateError: with runc's words.
    """
    if (
        not container_id
        or len(container_id) > ID_LONGEST
        or container_id in {".", ".."}
        or not ID_CHARACTERS.issuperset(container_id)
    ):
        raise StateError(
            f"invalid id format: {container_id!r}",
            "Use letters, digits and _ + - . only.",
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

    # FREEZING too: a process that joins a frozen v1 cgroup makes that of it for a moment.
    if frozen_state(record["cgroup"]) != "THAWED":
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
    except OSError as error:
        # Its number still names a session or a group that others are left of: to older
        # kernels, such as 6.1, that is no valid pid.
        if error.errno == errno.EINVAL:
            return None
        raise
    if process_start_ticks(record["pid"]) != record["pid_start_ticks"]:
        os.close(pidfd)
        return None
    return pidfd


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
        try:
            directory = self._open(container_id)
        except ContainerNotFound:
            return False
        try:
            return statedir.has(directory, statedir.RECORD)
        finally:
            os.close(directory)

    def ids(self) -> list[str]:
        """Return the ids of all directories this program made, sorted."""
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if _is_valid_id(name) and self._is_ours(name))

    def lock(
        self,
        container_id: str,
        *,
        timeout_seconds: float = 10.0,
        command: str = "",
        create: bool = False,
    ) -> Lock:
        """Return the container's lock, to be used in a `with`, see `lock.Lock`."""
        return Lock(
            self.path(container_id),
            self.root,
            container_id,
            command=command,
            timeout_seconds=timeout_seconds,
            create=create,
        )

    def is_locked(self, container_id: str) -> bool:
        """Tell whether a command is at work on the container now, for a list; no promise."""
        try:
            fd = os.open(f"{self.path(container_id)}/lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def refuse_moving(self, container_id: str) -> None:
        """Refuse what must not come between the steps of a migration.

        `lock` does so by itself; this is for commands that take none.

        Raises:
            Locked: the container is being moved; names to or from whom.
        """
        try:
            words = self.read(container_id, statedir.MIGRATION)
        except (ContainerNotFound, OSError):
            return
        raise moving(container_id, words.decode(errors="replace"))

    def reserve(self, container_id: str) -> str:
        """Claim an id for a new container and return its directory.

        Called with the lock held (`create=True`). What a `create` that was killed
        left behind is cleared away first: its record says `creating`, and since
        the lock is ours, its writer is gone.

        Raises:
            ContainerExists: the id belongs to a container.
        """
        if self.exists(container_id):
            try:
                record = self.load(container_id)
            except BrokenState:
                raise ContainerExists(container_id) from None
            if record["phase"] != "creating":
                raise ContainerExists(container_id)
            from migrate.runtime.delete import clear_away

            clear_away(record)
        directory = self._open(container_id)
        try:
            statedir.empty(directory, but=statedir.LOCK)
        finally:
            os.close(directory)
        return self.path(container_id)

    def read(self, container_id: str, name: str) -> bytes:
        """Return the content of a file in the container's directory.

        Raises:
            ContainerNotFound: the directory is not there.
            OSError: the file is not there, or is no plain file.
        """
        directory = self._open(container_id)
        try:
            return statedir.read(directory, name)
        finally:
            os.close(directory)

    def load(self, container_id: str) -> Record:
        """Return a container's record.

        Raises:
            ContainerNotFound: there is none.
            BrokenState: the file is torn, foreign, or of a newer version.
        """
        try:
            content = self.read(container_id, statedir.RECORD)
        except FileNotFoundError:
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
        if type(data.get("systemd", {})) is not dict:
            raise self._broken(container_id, "systemd is no dict")
        mounted = data.get("mounted", [])
        if type(mounted) is not list or not all(type(path) is str for path in mounted):
            raise self._broken(container_id, "mounted is no list of paths")
        for name in ("annotations", "cgroup", "systemd"):
            if not all(isinstance(value, str) for value in data.get(name, {}).values()):
                raise self._broken(container_id, f"{name} holds what is no text")
        if not all(isinstance(value, str) for value in data["stdio"]):
            raise self._broken(container_id, "stdio holds what is no text")
        if not 0 <= data["pid"] <= LARGEST_PID:
            raise self._broken(container_id, f"pid {data['pid']} cannot be one")
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
        self.replace(record["id"], statedir.RECORD, jsontext.dumps(record).encode())

    def replace(self, container_id: str, name: str, content: bytes) -> None:
        """Replace a file in a container's directory, as whole as `save` does."""
        directory = self._open(container_id)
        try:
            statedir.replace(directory, name, content)
        finally:
            os.close(directory)

    def remove(self, container_id: str) -> None:
        """Forget a container. Only files this program makes are removed.

        Raises:
            StateError: others are in its directory, which stays with them.
        """
        try:
            directory = self._open(container_id)
        except ContainerNotFound:
            return
        try:
            strangers = statedir.empty(directory) if statedir.is_ours(directory) else []
        finally:
            os.close(directory)
        path = self.path(container_id)
        if strangers:
            raise StateError(
                f"{path} stays: it holds {strangers[0]}, which is not this program's",
                "Look at it, and remove it by hand.",
            )
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # somebody else's after all
                raise

    def remove_bare(self, container_id: str) -> None:
        """Remove the empty directory of a `create` that was killed before it had the lock.

        Needs no lock: a `create` whose directory goes meanwhile makes it again.
        """
        try:
            os.rmdir(self.path(container_id))
        except OSError as error:
            # None there, somebody's link or file in its place, or no longer empty.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
                raise

    def _open(self, container_id: str) -> int:
        """Return a descriptor of the container's directory, see `statedir`."""
        try:
            return statedir.open_directory(self.path(container_id))
        except FileNotFoundError:
            raise ContainerNotFound(container_id, self.root) from None

    def _is_ours(self, name: str) -> bool:
        """Tell whether a directory under the root is one this program made."""
        try:
            directory = self._open(name)
        except ContainerNotFound:
            return False
        try:
            return statedir.is_ours(directory)
        finally:
            os.close(directory)


def _is_valid_id(name: str) -> bool:
    """Tell whether a directory's name could be an id."""
    try:
        validate_id(name)
    except StateError:
        return False
    return True


def _read(path: str) -> str:
    """Return the text of a file in /proc."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode(errors="replace")
    finally:
        os.close(fd)
