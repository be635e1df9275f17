"""What would go wrong, found before anything is touched.

Lives here: the two calls that look and run the checks, and the checks of one host and
of the container. Must not live here: how a host is looked at (`host_facts`), a
container (`checkpoint.inspect`), a network (`live.network`); what needs both hosts
(`comparison`). Imported by `migrate.live` and, for `check`, by `migrate.cli`.

    source         question, findings = look_here(...)
    destination    findings = look_there(question, ...)

Each check yields findings: `refuse` where the container would not arrive whole, `warn`
where it would and something about it changes, `ok` where a person would ask. Each says
the thing by its name, and the way out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from migrate.checkpoint.facts import Connection, Facts, Stdio
from migrate.errors import ProtocolError
from migrate.events import Finding
from migrate.live.comparison import CHECKS, Needs, finding, numbers
from migrate.live.host_facts import CAP_SYS_RESOURCE, HostFacts, gather, hard_limits
from migrate.live.network.plan import Plan
from migrate.runtime.state import Store

if TYPE_CHECKING:
    from migrate.runtime.state import Record

OLDEST_CRIU = (4, 2, 0)


def look_here(
    record: Record, spec: Mapping[str, Any], facts: Facts, plan: Plan, *, criu: str | None
) -> tuple[dict[str, Any], list[Finding]]:
    """Check the source's side.

    Args:
        record: the container's.
        spec: its decoded config.json.
        facts: of `checkpoint.inspect`.
        plan: of `live.network.describe`.
        criu: as given by --criu.

    Returns:
        The question for the destination's `look_there`, JSON-able, and the findings.
    """
    here = gather(criu=criu, bundle=record["bundle"])
    needs = _needs(record, spec, facts, plan)
    findings = [*_criu(here), *_privileges(here), *_of_container(facts, plan), *_users(facts, here)]
    return {"host": here.to_json(), "needs": asdict(needs)}, findings


def look_there(
    question: object, *, store: Store, bundle: str, criu: str | None = None
) -> list[Finding]:
    """Check the destination's side.

    Args:
        question: what the source's `look_here` returned.
        store: the destination's.
        bundle: path the bundle would have here.
        criu: as given by --criu.

    Raises:
        ProtocolError: the question is none.
    """
    if not isinstance(question, dict):
        raise ProtocolError("preflight: the question is not readable")
    source = HostFacts.from_json(question.get("host"))
    needs = Needs.from_json(question.get("needs"))
    here = gather(criu=criu, bundle=bundle)
    found = [*_criu(here), *_privileges(here)]
    for check in CHECKS:
        found += check(source, here, needs)
    found += _places(needs)
    if store.exists(needs.container_id):
        found.append(
            finding(
                "id",
                "refuse",
                f'a container "{needs.container_id}" already exists on {here.name}',
                f"Run `migrate delete {needs.container_id}` there first.",
            )
        )
    return found


# --- one host by itself ---


def _criu(host: HostFacts) -> Iterator[Finding]:
    """CRIU is there and new enough."""
    if host.criu_problem:
        yield finding("criu", "refuse", f"{host.name}: {host.criu_problem}", host.criu_hint)
    elif numbers(host.criu) < OLDEST_CRIU:
        yield finding(
            "criu",
            "refuse",
            f"{host.name}: CRIU {host.criu} is older than {'.'.join(map(str, OLDEST_CRIU))}",
            "Install a newer one there, or name it by --criu or MIGRATE_CRIU.",
        )
    else:
        yield finding("criu", "ok", f"{host.name}: CRIU {host.criu}, kernel {host.kernel}")


def _privileges(host: HostFacts) -> Iterator[Finding]:
    """The program may do what it has to."""
    if not host.is_root:
        yield finding(
            "privileges",
            "refuse",
            f"{host.name}: migrate does not run as root",
            "Log in there as root, or let the SSH key's command use sudo.",
        )


# --- the container where it is ---


def _of_container(facts: Facts, plan: Plan) -> Iterator[Finding]:
    """What of the container cannot follow, wherever it goes."""
    for obstacle in facts.obstacles:
        yield finding("container", obstacle.verdict, obstacle.what, obstacle.hint)
    for trouble in plan.obstacles:
        yield finding("network", trouble.verdict, trouble.what, trouble.hint)
    for peer in facts.host_unix_sockets:
        yield finding(
            "sockets",
            "refuse",
            f"a UNIX socket is connected to somebody outside the container: {peer}",
            "Close the connection; the process at its other end stays on this host.",
        )
    if facts.terminal:
        yield finding(
            "stdio",
            "refuse",
            "the container has a terminal, whose other end is held by a process on this host",
            'Set "terminal": false in config.json: a terminal cannot follow yet.',
        )
    for each in facts.stdio:
        yield from _stdio(each)
    if facts.network.kind != "host":
        yield from _sharers(facts)
    if facts.network.kind == "host":
        for connection in facts.connections:
            yield from _host_connection(connection)
        yield finding(
            "network",
            "warn",
            "the container uses the host's network: its addresses do not move",
            "Give it a network namespace of its own to take connections along.",
        )


def _sharers(facts: Facts) -> Iterator[Finding]:
    """Who else is in the container's network namespace: it moves away under them."""
    inside = _namespace(facts.pid, "pid")
    for name in os.listdir("/proc"):
        if name.isdigit() and _namespace(name, "net") == facts.network.inode:
            if _namespace(name, "pid") == inside:
                continue
            try:
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                    command = file.read().strip()
            except OSError:
                continue  # it has ended
            yield finding(
                "network",
                "refuse",
                f"process {name} ({command}) outside the container uses its network namespace",
                "Move what shares the namespace first, or give the container one of its own.",
            )


def _namespace(pid: int | str, kind: str) -> int:
    """Return the inode number of a process's namespace; 0 where it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return 0


def _stdio(each: Stdio) -> Iterator[Finding]:
    name = {0: "standard input", 1: "standard output", 2: "standard error"}.get(
        each.descriptor, f"descriptor {each.descriptor}"
    )
    if each.kind == "terminal":
        yield finding(
            "stdio",
            "refuse",
            f"{name} of the container is {each.path}, a terminal of this host",
            "Start it with `</dev/null >FILE 2>&1`, or give it a terminal of its own.",
        )
        return
    what = "a pipe to a process" if each.kind == "pipe" else f"{each.path}, a file"
    yield finding(
        "stdio",
        "warn",
        f"{name} of the container is {what} of this host, and becomes /dev/null over there",
        "Let the container write to a file of its own.",
    )


def _host_connection(connection: Connection) -> Iterator[Finding]:
    if not connection.is_loopback:
        yield finding(
            "connections",
            "refuse",
            f"process {connection.process} has a connection {connection.local} to "
            f"{connection.remote} over the host's network",
            "Close it, or give the container a network namespace of its own.",
        )


def _users(facts: Facts, host: HostFacts) -> Iterator[Finding]:
    """CRIU can take every process, whoever it belongs to."""
    if facts.user_namespace or host.can(CAP_SYS_RESOURCE):
        return
    for process in facts.processes:
        if process.uid:
            yield finding(
                "users",
                "refuse",
                f"process {process.inner_pid} ({process.command}) belongs to user {process.uid}, "
                f"and {host.name} lacks CAP_SYS_RESOURCE, without which CRIU takes root's only",
                "Grant it that capability, or run the container in a user namespace.",
            )


def _needs(record: Record, spec: Mapping[str, Any], facts: Facts, plan: Plan) -> Needs:
    rootfs_bytes, rootfs_files = _size(record["rootfs"])
    sources = {mount.destination: mount.source for mount in facts.mounts if mount.kind == "bind"}
    read_only = {
        os.path.normpath(mount["destination"])
        for mount in spec.get("mounts") or ()
        if {"ro", "rro"} & set(mount.get("options") or ())
    }
    spaces = {entry["type"] for entry in (spec.get("linux") or {}).get("namespaces") or ()}
    limits: dict[str, int] = {}
    for process in facts.processes:
        for name, value in hard_limits(process.pid).items():
            limits[name] = max(value, limits.get(name, 0))
    return Needs(
        container_id=facts.container_id,
        memory_bytes=facts.memory_bytes,
        rootfs_bytes=rootfs_bytes,
        rootfs_files=rootfs_files,
        binds=sources,
        writable_binds=sorted(sources.keys() - read_only),
        cgroup_mounts=sorted({each.controller for each in facts.mounts if each.kind == "cgroup"}),
        bridges=sorted({each.host.bridge for each in plan.interfaces if each.host.bridge}),
        namespace_path=plan.path,
        pids=[] if "pid" in spaces else [process.inner_pid for process in facts.processes],
        limits=limits,
    )


def _size(root: str) -> tuple[int, int]:
    """Return what a tree takes on the disk, and how many files it has."""
    size = count = 0
    device = os.lstat(root).st_dev
    pending = [root]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_blocks * 512
                    count += 1
                    if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                        pending.append(entry.path)
        except OSError:
            continue  # the container runs: what goes meanwhile needs no room
    return size, count


# --- the destination's own paths and processes ---


def _places(needs: Needs) -> Iterator[Finding]:
    """What the container takes from its host by name is there."""
    for destination, source in needs.binds.items():
        if not os.path.exists(source):
            yield finding(
                "mounts",
                "refuse",
                f"{source}, which is mounted at {destination} in the container, is not there",
                f"Make it on the destination: {source}.",
            )
        elif destination in needs.writable_binds:
            yield finding(
                "mounts",
                "warn",
                f"{source}, mounted at {destination}, is the destination's own: its content "
                "does not come along",
                "Share it between the hosts, or copy it before.",
            )
    taken = [pid for pid in needs.pids if os.path.exists(f"/proc/{pid}")]
    if taken:
        yield finding(
            "pids",
            "refuse",
            f"the container shares its host's process numbers, and {taken[0]} is taken",
            "Give the container a pid namespace.",
        )
