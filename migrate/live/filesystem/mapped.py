"""Files that tasks hold such that their times, or events, may not tell of a write.

Lives here: finding them in /proc. Must not live here: comparing. Imported by
`migrate.live`.

A page of a shared file mapping that is dirty already takes further stores without
a word to the file system; on tmpfs none ever tells. So what is mapped shared, at
the first look or at the last, is compared by content while the tasks are frozen.
A file that is open for writing may be written to by asynchronous I/O, which no
event tells of: its times are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

Held = tuple[str, int]
"""Path, inside the container, and inode number of a file."""

_DELETED = " (deleted)"
_GONE = (FileNotFoundError, ProcessLookupError)


def shared_mappings(pids: Iterable[int]) -> set[Held]:
    """Return the files that are mapped shared.

    A mapping that is readable only counts too: it may have been writable before.

    Args:
        pids: the container's tasks; one that has ended meanwhile is left out.
    """
    found: set[Held] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                raw = maps.read()
        except _GONE:
            continue
        for line in raw.splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[1].endswith(b"s") and fields[5].startswith(b"/"):
                path = os.fsdecode(fields[5]).replace("\\012", "\n")
                found.add((path, int(fields[4])))
    return {held for held in found if not held[0].endswith(_DELETED)}


def open_for_writing(pids: Iterable[int]) -> set[Held]:
    """Return the files that are open for writing.

    Args:
        pids: as above.
    """
    return {held for pid in pids for held in _open_for_writing(pid)}


def _open_for_writing(pid: int) -> Iterator[Held]:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except _GONE:
        return
    for descriptor in descriptors:
        name = f"{folder}/{descriptor}"
        try:
            # The link's own mode says how the file was opened, see proc(5).
            if not os.lstat(name).st_mode & 0o200:
                continue
            path = os.readlink(name)
            if path.startswith("/") and not path.endswith(_DELETED):
                yield path, os.stat(name).st_ino
        except _GONE:
            continue
