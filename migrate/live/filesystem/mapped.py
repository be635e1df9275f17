"""Files that tasks have mapped shared: a store to one may leave its times alone.

Lives here: finding them. Must not live here: comparing. Imported by `migrate.live`.

A page of a shared file mapping that is dirty already takes further stores without
a word to the file system; on tmpfs none ever tells. So what is mapped shared, at
the first look or at the last, is compared by content while the tasks are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable

_DELETED = " (deleted)"


def shared_mappings(pids: Iterable[int]) -> set[str]:
    """Return the paths, inside the container, of files that are mapped shared.

    A mapping that is readable only counts too: it may have been writable before.

    Args:
        pids: the container's tasks; one that has ended meanwhile is left out.
    """
    found: set[str] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                raw = maps.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in raw.splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[1].endswith(b"s") and fields[5].startswith(b"/"):
                path = fields[5].decode("utf-8", "surrogateescape").replace("\\012", "\n")
                if not path.endswith(_DELETED):
                    found.add(path)
    return found
