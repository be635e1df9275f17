"""The leaving container on the source: kept still, let go on, or ended for good.

Lives here: the two endings and everything they take away. Must not live here: which
one (`live.source`, `live.recover`). `live` only.

Both are made of steps that may be done twice, and both can be carried out from the
journal alone by another process, after this one was killed at any step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from migrate.errors import BrokenState, ContainerNotFound, MigrateError
from migrate.live import guard
from migrate.live.arrival import MIGRATIONS
from migrate.live.decision import SourceView, Tasks
from migrate.live.fence import Fence
from migrate.live.journal import Journal
from migrate.live.network.build import remove_links
from migrate.live.network.leftover import remove_locks
from migrate.live.network.plan import Plan
from migrate.live.network.silence import silenced
from migrate.live.network.switch import Switches, switches_of
from migrate.live.phases import Phase
from migrate.live.reality import is_alive, look_at_tasks
from migrate.live.removal import remove_tree
from migrate.runtime import cgroup
from migrate.runtime.delete import delete
from migrate.runtime.state import Store


def work_folder(store: Store, container_id: str) -> str:
    """Return where the small images of a dump lie, in memory."""
    return f"{store.root}/{MIGRATIONS}/{container_id}~leaving"


class Departure:
    """One leaving container.

    Args:
        process: pid and start time of its first process.
        paths: its control groups.
        plan: its network.
        switches: its links; None where it is gone, and they with it.
        was_paused: it was frozen before the migration.
        volumes: paths outside the bundle whose content goes along, and stays here, too.
    """

    def __init__(  # noqa: PLR0913 - each is a thing of its own
        self,
        store: Store,
        container_id: str,
        *,
        bundle: str,
        process: tuple[int, int],
        paths: dict[str, str],
        plan: Plan,
        switches: Switches | None,
        was_paused: bool,
        volumes: Sequence[str] = (),
    ) -> None:
        self.store = store
        self.container_id = container_id
        self.has_links = switches is not None and bool(switches.links)
        self.fence = Fence(paths, switches, was_paused=was_paused)
        self._plan = plan
        self._switches = switches
        self._paths = paths
        self._process = process
        self._bundle = bundle
        self._volumes = volumes

    @staticmethod
    def of_journal(store: Store, journal: Journal) -> Departure:
        """Return the container a journal is about."""
        plan = Plan.from_json(journal.fact("network"))
        switches = None
        with contextlib.suppress(MigrateError):  # it has ended, and its links went with it
            switches = switches_of(plan, journal.fact("pid"))
        return Departure(
            store,
            journal.fact("container"),
            bundle=journal.fact("bundle"),
            process=(journal.fact("pid"), journal.fact("pid_start_ticks")),
            paths=journal.fact("cgroup"),
            plan=plan,
            switches=switches,
            was_paused=journal.fact("was_paused") is True,
            volumes=journal.fact("volumes") or (),
        )

    def close(self) -> None:
        """Let go of the prepared sockets."""
        if self._switches is not None:
            self._switches.close()

    def look(self, journal: Journal) -> SourceView:
        """Return the source as it is, once CRIU has let go of it."""
        reached, pending = journal.reached, journal.pending
        return SourceView(
            reached=reached if isinstance(reached, Phase) else None,
            pending=pending if isinstance(pending, Phase) else None,
            tasks=look_at_tasks(journal, self._paths),
            same_boot=journal.same_boot,
            confirmed=journal.fact("confirmed") is True,
            is_replaced=self.store.exists(self.container_id) and not self.is_here,
        )

    @property
    def is_here(self) -> bool:
        """Whether what has its name here is this container still.

        It may have come back since, or another be made: that one is never touched.
        """
        try:
            record = self.store.load(self.container_id)
        except ContainerNotFound:
            return is_alive(*self._process)
        except BrokenState:
            return True
        return (record["pid"], record["pid_start_ticks"]) == self._process

    def keep_still(self) -> None:
        """Make sure that nothing of it runs here."""
        if self.is_here:
            self.fence.freeze_all()

    def go_on(self, tasks: Tasks) -> None:
        """Let it run on here, as it did before; what has ended is left as ended.

        Raises:
            MigrateError: it could not be let go.
        """
        if tasks is not Tasks.GONE:
            self.fence.open()
        if self.is_here:
            guard.take(self.store, self.container_id)
        self.remove_work()

    def end(self) -> None:
        """End it here: it lives on the other host.

        Raises:
            MigrateError: something of it is left.
        """
        if self.is_here:
            if cgroup.exists(self._paths):
                pids = [] if self._plan.kind == "host" else cgroup.procs(self._paths)
                with silenced(pids):
                    self.fence.condemn()
            with contextlib.suppress(MigrateError):  # gone with its namespace
                self.fence.cut()
            remove_links(self._plan)
            if self._plan.path:
                remove_locks(self._plan.path)
            guard.take(self.store, self.container_id)
            delete(self.store, self.container_id, force=True)
        with contextlib.suppress(OSError):  # a bundle on a read-only file system stays unmarked
            known = guard.volumes_left_by(self._bundle, self.container_id)
            volumes = list(dict.fromkeys([*known, *self._volumes]))
            guard.mark_bundle(self._bundle, self.container_id, volumes=volumes)
        self.remove_work()

    def remove_work(self) -> None:
        """Remove the images of the dump."""
        folder = work_folder(self.store, self.container_id)
        remove_tree(folder)
        with contextlib.suppress(OSError):  # another migration's folder is beside it
            os.rmdir(os.path.dirname(folder))
