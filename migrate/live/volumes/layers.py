"""An overlay root file system: which layers it has, and making it again elsewhere.

Lives here: reading the mount, and mounting it. Must not live here: what travels
(`travel`). `live.volumes` only.

Only the upper layer travels where the destination has the lower ones: marks in it
(whiteouts, opaque folders, redirects) mean the same over them, and nothing else of it
does. It is copied as what it is, files on a disk, and the overlay is mounted once all of
it is there: what changes beneath a mounted overlay may be seen or not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from migrate import syscalls
from migrate.checkpoint import procfs
from migrate.errors import FileSyncError, KernelError
from migrate.live.wire import fill

FOLDER = "overlay"
# mount(2) takes a page of options.
_LONGEST_OPTIONS = 4000
# With these an upper layer holds names of inodes, or another kind of marks.
_UNFIT = frozenset({"index=on", "nfs_export=on", "userxattr", "verity=require", "verity=on"})
# Which of its marks an overlay understands: as the source does, whatever the default.
_KEPT = ("redirect_dir", "metacopy")
_PARAMETERS = "/sys/module/overlay/parameters"


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a mounted overlay.

    Attributes:
        lower: topmost first.
        options: that matter to what is in the upper one.
    """

    lower: tuple[str, ...]
    upper: str
    options: tuple[str, ...]


def find(rootfs: str) -> Layers | str | None:
    """Return the layers of a root file system.

    Returns:
        None where it is no overlay; why the upper layer cannot travel alone, in words.
    """
    point = os.path.realpath(rootfs)
    lines = [line for line in procfs.mounts("self") if line.point == point]
    if not lines or lines[-1].fstype != "overlay":
        return None
    options = [_unescaped(each) for each in lines[-1].super_options]
    values = dict(each.partition("=")[::2] for each in options)
    unfit = _UNFIT & set(options)
    if unfit:
        return f"it is mounted with {min(unfit)}"
    lower = [each.partition("=")[2] for each in options if each.startswith("lowerdir+=")]
    lower = lower or values.get("lowerdir", "").split(":")
    upper = values.get("upperdir", "")
    named = [upper, *lower]
    if not all(path.startswith("/") and not set(path) & set(",:\\") for path in named):
        return "its layers have no plain names"
    if not all(os.path.isdir(path) for path in named):
        return "its layers are not where it names them"
    kept = tuple(f"{name}={values.get(name) or _default(name)}" for name in _KEPT)
    return Layers(tuple(map(os.path.realpath, lower)), upper, kept)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _default(name: str) -> str:
    """Return what the kernel takes where a mount does not say it."""
    try:
        with open(f"{_PARAMETERS}/{name}", encoding="ascii") as file:
            return "on" if file.read(1) in ("Y", "1") else "off"
    except OSError:
        return "off"


@dataclass(slots=True, kw_only=True)
class Overlay:
    """The overlay that the destination shall mount; JSON-able.

    Attributes:
        lower: its own layers, topmost first.
        options: of `Layers`.
    """

    lower: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return what the source sent.

        Raises:
            ProtocolError: it is not that.
        """
        return fill(cls(), data, "overlay")

    @property
    def fits(self) -> bool:
        """Whether a mount can be asked for with such names."""
        return not any(set(path) & set(",:\\") for path in self.lower)

    def upper(self, bundle: str) -> str:
        """Return the path of the upper layer."""
        return f"{bundle}/{FOLDER}/upper"

    def data(self, bundle: str) -> str:
        """Return the options of the mount."""
        return ",".join(
            [
                f"lowerdir={':'.join(self.lower)}",
                f"upperdir={self.upper(bundle)}",
                f"workdir={bundle}/{FOLDER}/work",
                *self.options,
            ]
        )

    def has_room(self, bundle: str) -> bool:
        """Whether the options are short enough for the kernel."""
        return self.fits and len(os.fsencode(self.data(bundle))) < _LONGEST_OPTIONS

    def make(self, bundle: str) -> None:
        """Make the folders, and note how it is mounted again after a restart."""
        for name in ("", "/upper", "/work"):
            os.makedirs(f"{bundle}/{FOLDER}{name}", 0o700, exist_ok=True)
        with open(f"{bundle}/{FOLDER}/mount-command", "w", encoding="utf-8") as file:
            file.write(
                "# The root file system of this bundle. `migrate delete` unmounts it, and so "
                "does a restart.\n"
                f"mount -t overlay overlay -o '{self.data(bundle)}' '{bundle}/rootfs'\n"
            )

    def mount(self, bundle: str) -> None:
        """Mount it on the bundle's root file system.

        Raises:
            FileSyncError: the kernel does not.
        """
        try:
            syscalls.mount("overlay", f"{bundle}/rootfs", "overlay", 0, self.data(bundle))
        except KernelError as error:
            raise FileSyncError(
                f"{bundle}/rootfs: overlay cannot be mounted: {os.strerror(error.errno).lower()}",
                "Give a bundle on a file system that takes an upper layer, by --bundle.",
            ) from error


def unmount(rootfs: str) -> None:
    """Unmount an overlay; where none is, nothing is done."""
    with contextlib.suppress(KernelError):
        _unmount(rootfs)


def _unmount(rootfs: str) -> None:
    lines = [line for line in procfs.mounts("self") if line.point == os.path.realpath(rootfs)]
    if lines and lines[-1].fstype == "overlay":
        try:
            syscalls.umount2(rootfs, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except KernelError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
