"""A container where it is: what of it could not follow, wherever it goes?

Lives here: the checks of the container on its source, as pure functions of what was
found of it, and of /proc. Must not live here: finding it (`checkpoint.inspect`,
`live.network`), what it needs elsewhere (`demands`). `live` only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from migrate.checkpoint.facts import Connection, Facts, Stdio
from migrate.events import Finding
from migrate.live import locks
from migrate.live.comparison import finding
from migrate.live.host_facts import CAP_SYS_RESOURCE, HostFacts
from migrate.live.network.plan import Plan


def judge(
    facts: Facts, plan: Plan, here: HostFacts, files: Mapping[int, str] = MappingProxyType({})
) -> list[Finding]:
    """Return what is found of the container.

    Args:
        facts: of `checkpoint.inspect`.
        plan: of `live.network.describe`.
        here: the host it is on.
        files: that take its standard output and error over there.
    """
    found = [
        *_of_container(facts, plan),
        *_streams(facts, files),
        *_users(facts, here),
        *locks.judge(facts),
    ]
    return found or [finding("container", "ok", "everything of the container can follow")]


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
            "warn",
            "the container has a terminal, whose other end is held by a process on this host",
            f"Take it over there by `migrate attach {facts.container_id}`.",
        )
    for lock in facts.file_locks:
        if lock.startswith("LEASE"):
            yield finding(
                "locks",
                "refuse",
                f"a process of the container has a lease on a file ({lock})",
                "Its files are read while it runs, which takes the lease from it: let it give "
                "the lease up first.",
            )
    if facts.network.kind != "host":
        yield from _sharers(facts)
    if facts.user_namespace and (facts.network.kind == "joined" or plan.interfaces):
        what = "joins a network namespace" if facts.network.kind == "joined" else "has a link"
        yield finding(
            "network",
            "refuse",
            f"the container has a user namespace and {what}, which cannot be made for it there",
            "Leave out one of the two, $.linux.namespaces user or the network.",
        )
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
    own = {each.pid for each in facts.processes}
    for name in os.listdir("/proc"):
        if name.isdigit() and _namespace(name, "net") == facts.network.inode:
            if _namespace(name, "pid") == inside or int(name) in own:
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


def _streams(facts: Facts, files: Mapping[int, str]) -> Iterator[Finding]:
    """What becomes of the descriptors that lead to something of this host."""
    for each in facts.stdio:
        if each.descriptor not in files:
            yield from _stdio(each)
    unused = files.keys() - {each.descriptor for each in facts.stdio}
    if unused:
        option = {1: "--stdout", 2: "--stderr"}[min(unused)]
        yield finding(
            "stdio",
            "warn",
            f"{files[min(unused)]} ({option}) stays unused: that descriptor of the container is "
            "its own, or the same file as another",
            f"Leave {option} out.",
        )


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
        "Name a file over there by --stdout or --stderr, or let the container write to one of "
        "its own.",
    )


def _host_connection(connection: Connection) -> Iterator[Finding]:
    # Over loopback, too: the other end may be anybody's, and the lock that keeps packets
    # away while it stands still would be left on this host.
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
