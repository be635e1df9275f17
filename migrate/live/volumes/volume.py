"""A bind mount of the container, as both sides speak of it.

Lives here: dataclasses and their JSON. Must not live here: looking, deciding. `live`
only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from migrate.live.wire import fill

Policy = Literal["sync", "shared", "exists", "skip"]
POLICIES: tuple[Policy, ...] = ("sync", "shared", "exists", "skip")

FOLDER, FILE, OTHER, ABSENT = "folder", "file", "other", "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One path of the source's host that the container has mounted.

    Attributes:
        source: the path.
        points: where it is mounted in the container.
        there: its path on the destination.
        kind: folder, file or other (a device, a socket).
        is_writable: the container may write to it.
        asked: the policy the user wants, or "".
        is_in_bundle: it lies in the container's bundle, and so does `there`.
        is_of_kernel: it is on a file system that the kernel makes up, such as sysfs.
        is_of_others: another machine may write to its file system.
        is_replaced: the path means another file by now than the one mounted.
        is_mount: something else is mounted there than on the folder around it, so that it
            comes along with no volume around it.
        around: the source of the bind mount it came along with (rbind), or "".
        device: of a device node: its type and number.
        open_inside: a process that has something of it open, in words, or "".
        size_bytes: on the disk.
        files: how many.
    """

    source: str
    points: tuple[str, ...]
    there: str
    kind: str
    is_writable: bool
    asked: Policy | Literal[""] = ""
    is_in_bundle: bool = False
    is_of_kernel: bool = False
    is_of_others: bool = False
    is_replaced: bool = False
    is_mount: bool = False
    around: str = ""
    device: str = ""
    open_inside: str = ""
    size_bytes: int = 0
    files: int = 0


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the destination has at a volume's path; JSON-able, it travels.

    Attributes:
        kind: absent, folder, file or other.
        is_empty: a folder without entries, or a file without content.
        is_left: a migration of this container has left it.
        user: another container that has it, or "".
        free_bytes: on its disk.
        disk: names that disk.
        device: as in `Volume`.
        marker: the text of the marker that was asked for, or "".
    """

    kind: str = ABSENT
    is_empty: bool = False
    is_left: bool = False
    user: str = ""
    free_bytes: int = 0
    disk: str = ""
    device: str = ""
    marker: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return what the destination sent.

        Raises:
            ProtocolError: it is not that.
        """
        return fill(cls(), data, "volumes")


@dataclass(slots=True, kw_only=True)
class Stowed:
    """What the destination shall make of a volume; JSON-able.

    Attributes:
        path: there; one of the bundle may be relative to it.
        kind: folder or file.
        policy: sync, or skip: it stays empty.
        mode, uid, gid: of what is made for skip.
        was: absent, empty or left, as the destination found it.
        old: mode, owner and group of what was empty.
        parents: folders on the way to it that were absent, the deepest first.
    """

    path: str = ""
    kind: str = FOLDER
    policy: str = "sync"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    was: str = ABSENT
    old: list[int] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
