"""Everything that can go wrong, as one tree of exceptions.

Lives here: the exceptions, their exit statuses and how each words itself.
Must not live here: printing, logging, recovery. Imports nothing, so that every
room, `runtime.init` included, may import it.

    MigrateError                    code                 exit status
    ├── UsageError                  usage                1
    ├── ConfigError                 config               1
    ├── StateError                  state                1
    │   ├── ContainerNotFound       not-found            1
    │   ├── ContainerExists         exists               1
    │   ├── WrongStatus             wrong-status         1
    │   ├── BrokenState             broken-state         1
    │   └── Locked                  locked               1
    ├── KernelError                 kernel               1
    ├── StageError                  stage                1
    ├── HookError                   hook                 1
    ├── CgroupError                 cgroup               1
    ├── CriuError                   criu                 1
    ├── ImageError                  image                1
    ├── TransportError              transport            1
    │   ├── HostKeyError            host-key             1
    │   ├── AuthenticationError     authentication       1
    │   ├── LinkError               link                 1
    │   │   └── LinkClosed          link-closed          1
    │   ├── PeerError               (as the peer says)   1
    │   └── ProtocolError           protocol             1
    ├── FileSyncError               file-sync            1
    ├── NetworkError                network              1
    └── MigrationError              migration            1
        ├── Refused                 refused              1
        ├── RolledBack              rolled-back          1
        ├── Undecided               undecided            4
        └── Lost                    lost                 5

A message is lower case, subject first, without a full stop, one line. A hint is
an imperative sentence. Only `migrate.cli` prints either.
"""

from __future__ import annotations


class MigrateError(Exception):
    """What a caller of any room may catch.

    Args:
        message: what is wrong and where (file, JSON path, value), one line.
        hint: what to do about it, an imperative sentence, or "".
    """

    code = "error"
    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(MigrateError):
    """The command line asks for something that does not exist or fit."""

    code = "usage"


class ConfigError(MigrateError):
    """A value of config.json (or of a process file) is not acceptable.

    Args:
        path: JSON path of the value, such as `$.process.args[0]`.
        problem: what is wrong with it, the value included.
        hint: what to write instead.
    """

    code = "config"

    def __init__(self, path: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{path}: {problem}", hint)
        self.path = path


class StateError(MigrateError):
    """The container is not in a state that allows the command."""

    code = "state"


class ContainerNotFound(StateError):
    """No container of that id is under the state root."""

    code = "not-found"

    def __init__(self, container_id: str, root: str) -> None:
        super().__init__(
            f'container "{container_id}" does not exist',
            f"Run `migrate list`, or give --root if it lives outside {root}.",
        )


class ContainerExists(StateError):
    """A container of that id is there already."""

    code = "exists"

    def __init__(self, container_id: str) -> None:
        super().__init__(
            f'container "{container_id}" already exists',
            f"Choose another id, or run `migrate delete {container_id}` first.",
        )


class WrongStatus(StateError):
    """The container is there, but stopped, paused or not yet started."""

    code = "wrong-status"


class BrokenState(StateError):
    """The state directory cannot be read as what this program writes."""

    code = "broken-state"


class Locked(StateError):
    """Another command holds the container's lock."""

    code = "locked"


class KernelError(MigrateError):
    """A system call failed.

    Args:
        call: its man page's name, such as `openat2`.
        subject: what it was called on: a path, flags, a pid.
        errno: the error number; its name and text are looked up here.
        hint: what to do about it.
    """

    code = "kernel"

    def __init__(self, call: str, subject: str, errno: int, hint: str = "") -> None:
        import os  # a builtin's wrapper: loaded in every process already

        super().__init__(f"{call} {subject}: {os.strerror(errno).lower()}", hint)
        self.call = call
        self.subject = subject
        self.errno = errno


class StageError(MigrateError):
    """A stage of the container's first process, or of an exec, failed."""

    code = "stage"


class HookError(MigrateError):
    """A hook failed, or ran out of its time."""

    code = "hook"


class CgroupError(MigrateError):
    """A control group could not be made, joined, set or removed."""

    code = "cgroup"


class CriuError(MigrateError):
    """CRIU refused or failed; the message is the cause out of its log."""

    code = "criu"


class ImageError(MigrateError):
    """An image directory is not what its manifest says."""

    code = "image"


class TransportError(MigrateError):
    """The other host cannot be reached or spoken with."""

    code = "transport"


class HostKeyError(TransportError):
    """The other host's key is unknown or not the known one."""

    code = "host-key"


class AuthenticationError(TransportError):
    """The other host does not let this user in."""

    code = "authentication"


class LinkError(TransportError):
    """The link broke, or was silent for too long."""

    code = "link"


class LinkClosed(LinkError):
    """Both sides agreed to end the link; nothing more will come."""

    code = "link-closed"


class PeerError(TransportError):
    """The other host answered a request with an error of its own.

    Args:
        host: the other host's name; it precedes the message.
        code: the error's code over there, kept as this one's.
        message: the message over there.
        hint: the hint over there.
    """

    def __init__(self, host: str, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{host}: {message}", hint)
        self.host = host
        self.code = code


class ProtocolError(TransportError):
    """The peer sent what the protocol does not allow."""

    code = "protocol"


class FileSyncError(MigrateError):
    """A file system could not be carried over whole."""

    code = "file-sync"


class NetworkError(MigrateError):
    """The container's network cannot be described, built or switched."""

    code = "network"


class MigrationError(MigrateError):
    """A migration did not end on the destination."""

    code = "migration"


class Refused(MigrationError):
    """A check before the freeze said no; nothing was touched."""

    code = "refused"


class RolledBack(MigrationError):
    """The migration failed before its commit; the source runs on."""

    code = "rolled-back"


class Undecided(MigrationError):
    """One side does not know how it ended; `migrate recover` settles it."""

    code = "undecided"
    exit_status = 4


class Lost(MigrationError):
    """The container cannot be brought back from either side."""

    code = "lost"
    exit_status = 5
