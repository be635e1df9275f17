"""One host judged by itself: can it be a source or a destination at all?

Lives here: the checks that need no other host and no container, as pure functions.
Must not live here: looking (`host_facts`). `live` only.

    ESSENTIAL   refusals: what nothing moves without; part of every migration
    THOROUGH    the rest, which `migrate check` adds: what costs time, or ends a strategy
"""

from __future__ import annotations

from collections.abc import Iterator

from migrate.checkpoint.lazy import PIPE_BYTES
from migrate.checkpoint.version import OLDEST as OLDEST_CRIU
from migrate.events import Finding
from migrate.live.comparison import Check, finding, named, numbers
from migrate.live.demands import size_text
from migrate.live.host_facts import (
    CAP_NET_ADMIN,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    CAP_SYS_RESOURCE,
    HostFacts,
)

# pidfd_getfd and openat2, which this program uses, are as old as that.
OLDEST_KERNEL = (5, 6)
_CAPABILITIES = {
    "CAP_SYS_ADMIN": CAP_SYS_ADMIN,
    "CAP_SYS_PTRACE": CAP_SYS_PTRACE,
    "CAP_NET_ADMIN": CAP_NET_ADMIN,
}
_FREEZERS = {"freezer", ""}
_NAMESPACES = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"}
_FEW_DESCRIPTORS = 4096
_LITTLE_STATE_BYTES = 16 << 20


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
        return
    missing = [name for name, number in _CAPABILITIES.items() if not host.can(number)]
    if missing:
        yield finding(
            "privileges",
            "refuse",
            f"{host.name}: root lacks {', '.join(missing)}",
            "Log in where root is not confined, or grant them.",
        )


def _kernel(host: HostFacts) -> Iterator[Finding]:
    """The kernel has the system calls, and stops a container for good."""
    if numbers(host.kernel.partition("-")[0])[:2] < OLDEST_KERNEL:
        yield finding(
            "kernel",
            "refuse",
            f"{host.name}: kernel {host.kernel} is older than {'.'.join(map(str, OLDEST_KERNEL))}",
            "Boot a newer one.",
        )


def _freezer(host: HostFacts) -> Iterator[Finding]:
    """There is a control group to freeze a container in."""
    if not any(_FREEZERS & set(key.split(",")) for key in host.cgroups):
        yield finding(
            "cgroups",
            "refuse",
            f"{host.name}: no control groups with a freezer are mounted",
            "Mount cgroup2 on /sys/fs/cgroup, or version 1's freezer.",
        )


def _resources(host: HostFacts) -> Iterator[Finding]:
    """Nothing is confined that need not be."""
    if not host.can(CAP_SYS_RESOURCE):
        yield finding(
            "privileges",
            "warn",
            f"{host.name}: root lacks CAP_SYS_RESOURCE, without which processes of other users "
            "move only within a user namespace, and limits cannot be raised",
            "Grant it, or run the containers in user namespaces.",
        )


def _post_copy(host: HostFacts) -> Iterator[Finding]:
    """Memory can follow after the container runs."""
    if not host.lazy_pages:
        yield finding(
            "post-copy",
            "warn",
            f"{host.name}: the kernel has no userfaultfd, so memory cannot follow afterwards",
            "Boot a kernel with CONFIG_USERFAULTFD for the strategies post-copy and hybrid.",
        )
    if host.pipe_max_bytes < PIPE_BYTES and not host.can(CAP_SYS_RESOURCE):
        yield finding(
            "post-copy",
            "warn",
            f"{host.name}: fs.pipe-max-size is {host.pipe_max_bytes}, CRIU needs {PIPE_BYTES} to "
            "leave memory behind",
            f"Run `sysctl -w fs.pipe-max-size={PIPE_BYTES}` there.",
        )


def _pre_copy(host: HostFacts) -> Iterator[Finding]:
    """How memory is copied before."""
    how = "the kernel's list of written pages" if host.dirty_tracking else "hashes of the pages"
    yield finding("pre-copy", "ok", f"{host.name}: changed memory is found by {how}")


def _control_groups(host: HostFacts) -> Iterator[Finding]:
    """Which control groups there are."""
    trees = named([key for key in host.cgroups if not key.startswith("name=")])
    yield finding(
        "cgroups",
        "ok",
        f"{host.name}: control groups {trees}; controllers {', '.join(host.controllers)}",
    )


def _namespaces(host: HostFacts) -> Iterator[Finding]:
    """The kernel makes every kind of namespace."""
    for kind in sorted(_NAMESPACES - set(host.namespaces)):
        yield finding(
            "namespaces",
            "warn",
            f"{host.name}: no {kind} namespace can be made",
            f"Look at /proc/sys/user/max_{kind}_namespaces, or boot a kernel that has them.",
        )


def _seccomp(host: HostFacts) -> Iterator[Finding]:
    """The kernel filters system calls."""
    if not host.seccomp:
        yield finding(
            "seccomp",
            "warn",
            f"{host.name}: the kernel has no system call filters",
            "Boot a kernel with CONFIG_SECCOMP_FILTER.",
        )


def _lsm(host: HostFacts) -> Iterator[Finding]:
    """Which security modules are in force."""
    modules = ", ".join(host.lsm) or "none that it tells of"
    yield finding("lsm", "ok", f"{host.name}: security modules: {modules}")


def _processor(host: HostFacts) -> Iterator[Finding]:
    """Which processor it is."""
    yield finding(
        "cpu",
        "ok",
        f"{host.name}: {host.cpu_name or host.machine} of {host.cpu_vendor}, "
        f"{len(host.cpu_flags)} flags",
    )


def _room(host: HostFacts) -> Iterator[Finding]:
    """There is some memory and disk."""
    if host.state_bytes < _LITTLE_STATE_BYTES:
        yield finding(
            "room",
            "warn",
            f"{host.name}: {size_text(host.state_bytes)} are left where the containers' state is",
            "Free space there, or give another --root.",
        )
    yield finding(
        "room",
        "ok",
        f"{host.name}: {size_text(host.memory_bytes)} of memory, {size_text(host.disk_bytes)} of "
        "disk",
    )


def _limits(host: HostFacts) -> Iterator[Finding]:
    """Many files can be open."""
    most = host.limits.get("nofile", 0)
    if most < _FEW_DESCRIPTORS:
        yield finding(
            "limits",
            "warn",
            f"{host.name}: this login may have {most} files open; post-copy takes about 530 for "
            "each GiB",
            "Raise the hard limit nofile for logins there.",
        )


def _network(host: HostFacts) -> Iterator[Finding]:
    """There is a bridge that containers can be on."""
    bridges = ", ".join(host.bridges) or "none"
    yield finding("network", "ok", f"{host.name}: bridges: {bridges}")


ESSENTIAL = (
    Check("criu", _criu, ""),
    Check("privileges", _privileges, "{host}: root, with every capability that is needed"),
    Check("kernel", _kernel, "{host}: the kernel is new enough"),
    Check("cgroups", _freezer, "{host}: containers can be frozen"),
)
THOROUGH = (
    Check("privileges", _resources, "{host}: limits can be raised"),
    Check("post-copy", _post_copy, "{host}: memory can follow after the container"),
    Check("pre-copy", _pre_copy, ""),
    Check("cgroups", _control_groups, ""),
    Check("namespaces", _namespaces, "{host}: every kind of namespace can be made"),
    Check("seccomp", _seccomp, "{host}: system calls can be filtered"),
    Check("lsm", _lsm, ""),
    Check("cpu", _processor, ""),
    Check("room", _room, ""),
    Check("limits", _limits, "{host}: enough files can be open"),
    Check("network", _network, ""),
)


def judge(host: HostFacts, *, thorough: bool) -> list[Finding]:
    """Return what is found of one host.

    Args:
        thorough: what `migrate check` says, too.
    """
    checks = ESSENTIAL + (THOROUGH if thorough else ())
    return [found for check in checks for found in check.judge(host, host=host.name)]
