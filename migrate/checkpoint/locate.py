"""Where CRIU is on this host.

Lives here: the search order and its error. Must not live here: which version
or feature is enough (`version`), how it is run (`session`). May be imported by
all of `checkpoint`, by `live` and by `cli`.
"""

from __future__ import annotations

import os

from migrate.errors import CriuError

_PREFIX_PATH = ".prefix/sbin/criu"
_FALLBACK_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_criu(explicit: str | None = None) -> str:
    """Return the absolute path of the CRIU to use.

    The first that is named or found wins: the caller's own choice (`--criu`),
    MIGRATE_CRIU, the prefix that set-up fills beside the package, PATH. One
    that is named and does not exist is an error, never passed over.

    Args:
        explicit: a path, or a name to look up in PATH, or None.

    Raises:
        CriuError: nothing there, or what is named is not an executable file.
    """
    for source, named in (("--criu", explicit), ("MIGRATE_CRIU", os.environ.get("MIGRATE_CRIU"))):
        if named:
            return _named(source, named)
    # Empty environments are usual under engines, so a PATH of our own stands in.
    for candidate in (_prefix(), _in_path("criu")):
        if candidate and _executable(candidate):
            return candidate
    raise CriuError(
        "criu is neither beside this program nor in PATH",
        "Run scripts/setup, install the package criu (4.2 or newer), or give --criu PATH.",
    )


def _named(source: str, named: str) -> str:
    """Return what the user named as an absolute path, or say what is wrong with it."""
    path = os.path.abspath(named) if "/" in named else _in_path(named)
    if path is None or not os.path.exists(path):
        raise CriuError(f"{source} names {named}, which does not exist", "Give the path of criu.")
    if not _executable(path):
        raise CriuError(f"{source} names {path}, which is not executable", "Give the path of criu.")
    return path


def _prefix() -> str:
    """Return where set-up leaves CRIU: beside the package, or its checkout."""
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.path.join(package_parent, _PREFIX_PATH)


def _in_path(name: str) -> str | None:
    """Return the first executable of that name in PATH."""
    for directory in os.environ.get("PATH", _FALLBACK_PATH).split(":"):
        # A relative entry would run whatever lies in the working directory, as root.
        candidate = os.path.join(directory, name)
        if directory.startswith("/") and _executable(candidate):
            return candidate
    return None


def _executable(path: str) -> bool:
    """Return whether the path is a file this process may execute."""
    return os.path.isfile(path) and os.access(path, os.X_OK)
