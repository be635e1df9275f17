"""An arriving container's place on the destination: made, found again, taken away.

Lives here: id, bundle, control groups, network, image folder, and the guard that keeps
other commands away meanwhile. Must not live here: when (`live.destination`). `live`
only.

A place is described by its journal before any of it is made, so that another process
can take it away, or restore from it again, after this one was killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from migrate import syscalls
from migrate.errors import (
    ConfigError,
    ContainerNotFound,
    KernelError,
    Locked,
    MigrateError,
    MigrationError,
    Refused,
    StateError,
)
from migrate.live import guard
from migrate.live.network.build import tear_down
from migrate.live.removal import remove_tree
from migrate.live.volumes.stowage import Stowage
from migrate.runtime import cgroup
from migrate.runtime.state import SCHEMA_VERSION, Store, boot_id, now_rfc3339

if TYPE_CHECKING:
    from migrate.runtime.state import Record

MIGRATIONS = "~migrations"  # no container can have this id
CONFIG = "config.json"
ROOTFS = "rootfs"
RESERVE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where everything of an arriving container goes; JSON-able.

    Attributes:
        root: the state root.
        migration: which one; a bundle it has made bears its name until it is whole.
        bundle_is_new: it was not there before, so it goes if the container does not stay.
        work: 0700, in memory: `images`, and what CRIU needs beside them.
        stowage: what of it lies outside its root file system, see `volumes.stowage`.
    """

    container_id: str
    migration: str
    root: str
    bundle: str
    bundle_is_new: bool
    work: str
    cgroup: dict[str, str]
    source: str
    stowage: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Place:
        """Return what `to_json` wrote.

        Raises:
            MigrationError: it is not that.
        """
        try:
            return Place(**data)
        except TypeError as error:
            raise MigrationError(f"journal does not say where the container is: {error}") from None

    @property
    def stowed(self) -> Stowage:
        """What of it lies outside its root file system."""
        return Stowage.of(self.bundle, self.container_id, self.stowage)

    @property
    def images(self) -> str:
        """Path of the image directory."""
        return f"{self.work}/images"

    @property
    def rootfs(self) -> str:
        """Path of the root file system."""
        return f"{self.bundle}/{ROOTFS}"


def choose(
    store: Store,
    container_id: str,
    *,
    migration: str,
    bundle: str,
    cgroups_path: str | None,
    source: str,
    stowage: object = None,
) -> Place:
    """Return where a container would go; touches nothing.

    Args:
        stowage: what the source wants of volumes and layers, if it says so.

    Raises:
        Refused: the bundle or a volume is somebody else's, or a container lives in it.
        ProtocolError: what the source wants is not understood.
    """
    bundle = os.path.abspath(bundle)
    is_new = not os.path.lexists(bundle)
    if not is_new and not guard.was_left_by(bundle, container_id):
        raise Refused(
            f"bundle {bundle} is there already and is not left by a migration of {container_id}",
            "Give another folder with --bundle, or move that one away.",
        )
    if not is_new:
        _refuse_in_use(store, container_id, bundle)
    stowed = Stowage.of(bundle, container_id, stowage if isinstance(stowage, dict) else {})
    stowed.claim()
    return Place(
        container_id=container_id,
        migration=migration,
        root=store.root,
        bundle=bundle,
        bundle_is_new=is_new,
        work=f"{store.root}/{MIGRATIONS}/{container_id}",
        cgroup=cgroup.resolve(cgroups_path, container_id),
        source=source,
        stowage=stowed.to_json(),
    )


def _refuse_in_use(store: Store, container_id: str, bundle: str) -> None:
    """Refuse a bundle whose files are another container's, too: they would change under it."""
    folder = os.path.realpath(bundle)
    for other in store.ids():
        with contextlib.suppress(StateError):
            record = store.load(other)
            used = {os.path.realpath(record["bundle"]), os.path.realpath(record["rootfs"])}
            if other != container_id and used & {folder, f"{folder}/{ROOTFS}"}:
                raise Refused(
                    f'bundle {bundle} is container "{other}"\'s, too',
                    "Give another folder with --bundle.",
                )


def record_of(
    place: Place, kept: Mapping[str, Any], phase: str, pid: int, start_ticks: int
) -> Record:
    """Return a container's record here.

    Args:
        kept: what of the source's record does not depend on the host.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "id": place.container_id,
        "bundle": place.bundle,
        "rootfs": place.rootfs,
        "pid": pid,
        "pid_start_ticks": start_ticks,
        "boot_id": boot_id(),
        "created": kept["created"],
        "oci_version": kept["oci_version"],
        "annotations": kept["annotations"],
        "owner": kept["owner"],
        "cgroup": place.cgroup,
        "stdio": kept["stdio"],
        "terminal": kept["terminal"],
        "phase": phase,
    }


def reserve(store: Store, place: Place, annotations: Mapping[str, str]) -> None:
    """Take the id, such that no other command can have it meanwhile.

    Raises:
        ContainerExists: it is a container's.
        CgroupError: its control group is somebody else's.
    """
    with store.lock(place.container_id, command="migrate agent", create=True):
        store.reserve(place.container_id)
        cgroup.refuse_occupied(place.cgroup)
        guard.put(store, place.container_id, f"from {place.source}")
        nothing = {
            "created": now_rfc3339(),
            "oci_version": "",
            "annotations": dict(annotations),
            "owner": "",
            "stdio": [],
            "terminal": False,
        }
        record = record_of(place, nothing, "creating", 0, 0)
        store.save(record)


def make(place: Place, config: bytes, resources: Mapping[str, Any] | None) -> None:
    """Make the folders and the control groups.

    Raises:
        MigrateError: says which of them cannot be made.
    """
    try:
        os.makedirs(place.work, 0o700, exist_ok=True)
        _keep_in_memory(place.work)
        os.mkdir(place.images, 0o700)
        if place.bundle_is_new:
            os.makedirs(os.path.dirname(place.bundle), 0o755, exist_ok=True)
            os.mkdir(place.bundle, 0o755)  # if somebody made it meanwhile, it is theirs
        guard.mark_bundle(place.bundle, place.container_id, begun_by=place.migration)
        os.makedirs(place.rootfs, 0o755, exist_ok=True)
        place.stowed.make(place.migration)
        with open(_reserve(place), "wb") as file:
            file.write(bytes(RESERVE_BYTES))
        replace_file(f"{place.bundle}/{CONFIG}", config)
    except OSError as error:
        raise MigrationError(
            f"{error.filename or place.bundle}: {(error.strerror or str(error)).lower()}",
            "Make room, or give another folder with --bundle.",
        ) from error
    cgroup.create(place.cgroup, dict(resources or {}))


def _reserve(place: Place) -> str:
    """Return the file that keeps room for the record, beside the records."""
    return f"{place.work}~reserve"


def free_reserve(place: Place) -> None:
    """Make the room that the record of a container that has arrived needs.

    After the commit nothing may fail for want of it.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_reserve(place))


def undo(store: Store, place: Place, network: Mapping[str, Any] | None) -> None:
    """Take all of it away; what is gone already is no error.

    What only has the name of ours, because we never came to take it, stays: the id and
    the control groups are ours once the guard is there, a bundle is once it is marked.

    Args:
        network: what `live.network.build` recorded, if it came to that.

    Raises:
        MigrateError: something is left; the rest is gone all the same.
    """
    first: Exception | None = None
    is_ours = guard.is_arriving(store, place.container_id)
    steps: list[Callable[[], None]] = [
        lambda: cgroup.kill(place.cgroup) if is_ours else None,
        lambda: cgroup.destroy(place.cgroup) if is_ours else None,
        lambda: tear_down(network) if network else None,
        lambda: _unstow(place),
        lambda: _remove_bundle(place),
        lambda: remove_images(place),
    ]
    for step in steps:
        try:
            step()
        except (MigrateError, OSError) as error:
            first = first or error
    if first is None:
        if is_ours:
            store.remove(place.container_id)  # the guard goes after the record
        else:
            _remove_unnamed(store, place.container_id)
    elif isinstance(first, OSError):
        raise MigrationError(
            f"{first.filename}: {(first.strerror or str(first)).lower()}",
            "Remove it by hand, then run recover again.",
        ) from first
    else:
        raise first


def _unstow(place: Place) -> None:
    """Take away what this migration has made for volumes and layers."""
    if guard.was_begun_by(place.bundle, place.migration):
        place.stowed.undo()


def _remove_bundle(place: Place) -> None:
    """Remove the bundle that this migration has made; its mark goes last."""
    if not place.bundle_is_new:
        return
    if guard.was_begun_by(place.bundle, place.migration):
        remove_tree(place.rootfs)
        remove_tree(place.bundle)
    else:
        with contextlib.suppress(OSError):  # not even marked: ours is empty
            os.rmdir(place.bundle)


def _remove_unnamed(store: Store, container_id: str) -> None:
    """Remove the folder of an id that was being taken; not one that is a container's."""
    with (
        contextlib.suppress(ContainerNotFound, Locked),
        store.lock(container_id, command="migrate agent", timeout_seconds=1.0),
    ):
        if not store.exists(container_id):
            store.remove(container_id)


def _keep_in_memory(folder: str) -> None:
    """Mount memory on the image folder, whatever the state root lies on.

    Images hold the container's memory: they are never written to a disk, and need no
    room in /run, which is small on many machines. What fits was checked before.
    """
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("migrate", folder, "tmpfs", flags, "mode=700,size=95%")


def remove_images(place: Place) -> None:
    """Remove the images, and what CRIU needed beside them."""
    try:
        syscalls.umount2(place.work, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # gone already
            raise
    remove_tree(place.work)
    free_reserve(place)
    with contextlib.suppress(OSError):  # another migration's folder is beside it
        os.rmdir(os.path.dirname(place.work))


def replace_file(path: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:
        file.write(content)
    os.rename(temporary, path)


def config_for(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration as the destination's bundle has it.

    The root file system lies in the bundle, wherever the source had it.

    Raises:
        ConfigError: there is no root at all.
    """
    root = config.get("root")
    if not isinstance(root, dict):
        raise ConfigError("$.root", "is missing")
    return {**config, "root": {**root, "path": ROOTFS}}
