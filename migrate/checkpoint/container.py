"""`checkpoint` and `restore` of a container on one host, whole.

Lives here: the order in which state, control groups, images and CRIU are dealt with,
and what is taken back when a step fails. Must not live here: what CRIU is told
(`options`), moving between hosts (`live`). May be imported by `cli`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from migrate.checkpoint.dump import Dump
from migrate.checkpoint.facts import Facts
from migrate.checkpoint.images import ImageDirectory, Manifest
from migrate.checkpoint.inspect import inspect
from migrate.checkpoint.lazy import LazyServer, check_pipes
from migrate.checkpoint.locate import find_criu
from migrate.checkpoint.options import Request
from migrate.checkpoint.prepare import prepared
from migrate.checkpoint.restore import Restore
from migrate.checkpoint.session import Notification
from migrate.checkpoint.wholeness import wait_until_whole
from migrate.errors import CriuError, UsageError, WrongStatus
from migrate.events import Finding, emit
from migrate.runtime import cgroup, group, handover, hooks, interrupt, state
from migrate.runtime.configfile import read_config, write_config
from migrate.runtime.launch import new_record, take_back
from migrate.runtime.spec.decoding import decode
from migrate.runtime.spec.validation import validate

_UNFINISHED = ".unfinished"

if TYPE_CHECKING:
    from migrate.runtime.spec.model import Spec
    from migrate.runtime.state import Record, Store


@dataclass(slots=True, frozen=True, kw_only=True)
class Serving:
    """Where the memory of a checkpoint with lazy pages is fetched.

    Attributes:
        address: host and port to listen on.
        status_descriptor: told by one zero byte once it can be fetched; -1 for nobody.
    """

    address: tuple[str, int]
    status_descriptor: int = -1


@dataclass(slots=True, kw_only=True)
class RestoreOptions:
    """What the command line adds to the images.

    Attributes:
        console_socket: path of the socket the terminal's master goes to.
        take_console: called with the master instead.
        pid_file: path the first process's pid is written to.
        pidfd_socket: path of the socket a pidfd goes to.
        systemd: the control group is to be a unit of systemd's.
    """

    console_socket: str = ""
    take_console: Callable[[int], None] | None = None
    pid_file: str = ""
    pidfd_socket: str = ""
    systemd: bool = False


def checkpoint(
    store: Store,
    container_id: str,
    image_path: str,
    request: Request,
    *,
    criu: str | None = None,
    work_path: str | None = None,
    serving: Serving | None = None,
) -> Manifest:
    """Save a running or paused container as images, and end it unless told otherwise.

    Whatever fails, the container goes on as it did.

    Args:
        image_path: directory for the images; those that are there are replaced, once
            the new ones are complete.
        criu: what the user named, see `find_criu`.
        work_path: directory of CRIU's log, that of the images if None.
        serving: leave the memory out of the images and wait until it was fetched.

    Raises:
        WrongStatus: it is neither running nor paused.
        CriuError: something of it cannot be in an image, or CRIU failed.
        ImageError: the directory cannot take the images.
    """
    program = find_criu(criu)
    if serving is not None:
        check_pipes()
    before = interrupt.raise_on_signals()
    try:
        with store.lock(container_id, command="checkpoint"):
            record = store.load(container_id)
            status = state.status(record)
            if status not in ("running", "paused"):
                raise WrongStatus(f"cannot checkpoint a container in the {status} state")
            path = f"{store.path(container_id)}/config.json"
            wait_until_whole(store.path(container_id), container_id)
            with open(path, "rb") as file:
                facts = inspect(record, decode(file.read(), path))
            refuse_obstacles(facts)
            os.umask(0o077)
            with ImageDirectory(image_path, create=True, replace=True) as images:
                source = _Source(program, record, facts, request, work_path, serving)
                manifest = source.checkpoint_into(images)
        if not request.leave_running:
            from migrate.runtime.delete import delete

            delete(store, container_id, force=True)
    finally:
        interrupt.restore(before)
    return manifest


def restore(
    store: Store,
    container_id: str,
    bundle: str,
    image_path: str,
    request: Request,
    taken: RestoreOptions,
    *,
    criu: str | None = None,
    work_path: str | None = None,
) -> Record:
    """Bring a container back from images; it runs as if it had been created and started.

    Whatever fails, nothing of it is left.

    Args:
        bundle: absolute path; may be another than at the checkpoint.
        request: what the user asks other than what follows from the container.

    Returns:
        Its record, phase "started"; its process is a child of this one.

    Raises:
        ContainerExists: the id is taken.
        ImageError: the images are damaged, incomplete or not vouched for.
        CriuError: CRIU failed.
    """
    program = find_criu(criu)
    state.validate_id(container_id)
    config = read_config(bundle)
    spec = decode(config, f"{bundle}/config.json")
    validate(spec, bundle)
    before = interrupt.raise_on_signals()
    try:
        with ImageDirectory(image_path) as images:
            manifest = images.manifest()
            images.verify(manifest)
            _check_terminal(manifest.facts, taken)
            with store.lock(container_id, create=True, command="restore"):
                directory = store.reserve(container_id)
                record = new_record(container_id, spec, bundle, systemd=taken.systemd)
                cgroup.refuse_occupied(record["cgroup"])
                record["terminal"] = manifest.facts.terminal
                try:
                    write_config(directory, config)
                    store.save(record)
                    arrival = _Arrival(store, record, spec, taken)
                    arrival.restore(program, manifest.facts, request, images, work_path)
                except BaseException:
                    take_back(store, record)
                    raise
    finally:
        interrupt.restore(before)
    return record


def refuse_obstacles(facts: Facts) -> None:
    """Say what cannot be in an image, before anything is frozen; warn of the rest."""
    for each in facts.obstacles:
        if each.verdict == "refuse":
            raise CriuError(
                f'container "{facts.container_id}" cannot be checkpointed: {each.what}', each.hint
            )
        emit(Finding(check="checkpoint", verdict="warn", message=each.what, hint=each.hint))


@dataclass(slots=True, frozen=True)
class _Source:
    """One container to be saved."""

    criu: str
    record: Record
    facts: Facts
    request: Request
    work_path: str | None
    serving: Serving | None

    def checkpoint_into(self, images: ImageDirectory) -> Manifest:
        """Dump into a directory that may hold an older checkpoint."""
        if not images.names():
            return self._dump(images, self.work_path)
        unfinished = f"{images.path}/{_UNFINISHED}"
        _clear_unfinished(unfinished)
        with ImageDirectory(unfinished, create=True) as newer:
            try:
                manifest = self._dump(newer, self.work_path or images.path)
            except BaseException:
                os.rmdir(unfinished)
                raise
            images.take_over(newer)
        return manifest

    def _dump(self, images: ImageDirectory, work_path: str | None) -> Manifest:
        """Dump; let the container go on where it shall, also after a failure."""
        with contextlib.ExitStack() as stack:
            lazy = None
            if self.serving is not None:
                lazy = LazyServer(self.serving.address, self.serving.status_descriptor)
                stack.callback(lazy.close)
            dump = stack.enter_context(
                Dump(
                    self.criu,
                    self.facts,
                    self.request,
                    cgroup=self.record["cgroup"],
                    images=images,
                    lazy=lazy,
                    work_directory=work_path,
                )
            )
            try:
                manifest = dump.run()
            except BaseException:
                if lazy is not None:
                    lazy.close()  # CRIU waits for it
                dump.close()
                dump.fence.thaw()
                images.clear()
                raise
            if self.request.leave_running:
                dump.close()
                dump.fence.thaw()
        return manifest


def _clear_unfinished(path: str) -> None:
    """Remove what a checkpoint that was killed left; plain files only, and no further."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(directory):
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(path)


class _Arrival:
    """One restore on this host: the steps between CRIU's stages."""

    def __init__(self, store: Store, record: Record, spec: Spec, taken: RestoreOptions) -> None:
        self._store = store
        self._record = record
        self._spec = spec
        self._taken = taken

    def restore(
        self,
        criu: str,
        facts: Facts,
        request: Request,
        images: ImageDirectory,
        work_path: str | None,
    ) -> None:
        """Restore the container, and save its record as that of a started one."""
        record, directory = self._record, self._store.path(self._record["id"])
        resources = self._spec.get("linux", {}).get("resources") or {}
        # Limits on memory or processes would bind CRIU too, which lives there meanwhile.
        devices = {"devices": resources.get("devices") or []}
        with (
            group.Prepared(record, devices),
            prepared(
                self._spec,
                record["bundle"],
                facts,
                request,
                cgroup=record["cgroup"],
                work=directory,
                has_streams=True,
            ) as (place, target),
            Restore(
                criu,
                facts,
                request,
                place=place,
                target=target,
                images=images,
                on_terminal=self._take_terminal,
                work_directory=work_path,
            ) as arriving,
        ):
            pid = arriving.run(
                {"setup-namespaces": self._run_hooks, "post-restore": self._register}
            )
            if pid != record["pid"]:
                raise CriuError(f"criu restored process {record['pid']} and then said {pid}")

    def _run_hooks(self, notification: Notification) -> bool:
        """Run the hooks that a network or a device may come from, as at a create."""
        for kind in ("prestart", "createRuntime"):
            hooks.run(kind, self._spec, self._record, "creating", notification.pid)
        return True

    def _register(self, notification: Notification) -> bool:
        """Write down what was restored, before it runs."""
        record = self._record
        resources = self._spec.get("linux", {}).get("resources")
        if resources:
            group.update(record, resources)
        record["pid"] = notification.pid
        record["pid_start_ticks"] = state.process_start_ticks(notification.pid)
        record["stdio"] = [_link(f"/proc/{notification.pid}/fd/{number}") for number in range(3)]
        record["phase"] = "started"
        handover.announce(notification.pid, self._taken)
        self._store.save(record)
        return True

    def _take_terminal(self, master: int) -> None:
        """Hand the terminal's master to whoever was named for it."""
        handover.console(b"/dev/ptmx", [master], self._taken)


def _check_terminal(facts: Facts, taken: RestoreOptions) -> None:
    """A terminal needs somebody who takes its master."""
    if facts.terminal and not (taken.console_socket or taken.take_console):
        raise UsageError(
            "the container has a terminal, and nobody takes it",
            "Give --console-socket, or leave --detach out.",
        )


def _link(path: str) -> str:
    """Return what a descriptor is, or "" where it is closed."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
