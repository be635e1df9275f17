"""The id maps of a user namespace.

Lives here: writing them from outside, and telling whether we are in one ourselves, see
user_namespaces(7). May be imported by every room above `runtime`.
"""

from __future__ import annotations

import os

from migrate.errors import StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.spec.model import IdMapping, Linux


def write(pid: int, linux: Linux) -> None:
    """Map the ids of the user namespace a process has just made.

    Raises:
        StageError: the kernel, or newuidmap(1), refuses the map.
    """
    uids, gids = linux["uidMappings"], linux["gidMappings"]
    if os.geteuid() == 0:
        _write(f"/proc/{pid}/gid_map", _lines(gids))
        _write(f"/proc/{pid}/uid_map", _lines(uids))
        return
    for program, mappings, own, name in (
        ("newgidmap", gids, os.getegid(), "gid_map"),
        ("newuidmap", uids, os.geteuid(), "uid_map"),
    ):
        if [(item["hostID"], item["size"]) for item in mappings] == [(own, 1)]:
            # Without privileges one's own id may be mapped, a group only once
            # setgroups is given up (CVE-2014-8989).
            if name == "gid_map":
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/{name}", _lines(mappings))
        else:
            _call(program, pid, mappings)


def in_user_namespace() -> bool:
    """Tell whether we are in another user namespace than the host's, which maps all ids."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def _lines(mappings: list[IdMapping]) -> str:
    return "".join(f"{item['containerID']} {item['hostID']} {item['size']}\n" for item in mappings)


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise StageError(
            f"cannot map ids ({path}): {str(error.strerror).lower()}",
            "Check uidMappings and gidMappings for overlaps and for ids you may not map.",
        ) from None


def _call(program: str, pid: int, mappings: list[IdMapping]) -> None:
    """Let the set-user-ID helper of shadow map ranges of /etc/subuid."""
    arguments = [program, str(pid)]
    for item in mappings:
        arguments += [str(item[key]) for key in ("containerID", "hostID", "size")]
    hear, say = os.pipe()
    try:
        child = os.posix_spawnp(
            program, arguments, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, say, 2)]
        )
    except FileNotFoundError:
        os.close(hear)
        raise StageError(
            f"cannot map ids: {program} is not installed", "Install the package uidmap."
        ) from None
    finally:
        os.close(say)
    with open(hear, encoding="utf-8", errors="replace") as file:
        said = " ".join(file.read().split())
    _, status = os.waitpid(child, 0)
    if status:
        raise StageError(
            f"cannot map ids: {said or f'{program} failed'}",
            "Check the ranges of /etc/subuid and /etc/subgid.",
        )
