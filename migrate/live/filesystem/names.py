"""Which entries of a tree are names of one and the same file.

Lives here: the groups. Must not live here: looking at files. Pure; the walk of
`migrate.live.filesystem` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

File = tuple[int, int]
"""Device and inode number."""


class FileNames:
    """Files with several names; the first name known of a file stands for it.

    Attributes:
        shrunk: files that lost a name and have others, since it was cleared.
    """

    def __init__(self) -> None:
        self._names: dict[File, list[int]] = {}
        self._file: dict[int, File] = {}
        self.shrunk: set[File] = set()

    def note(self, entry: int, file: File, *, known_before: bool = False) -> None:
        """Note a name of a file; one that was known before all others stands for it."""
        if entry not in self._file:
            self._file[entry] = file
            names = self._names.setdefault(file, [])
            names.insert(0 if known_before else len(names), entry)

    def forget(self, entry: int) -> int | None:
        """Forget a name; returns the one that stands for the file now, if this one did."""
        file = self._file.pop(entry, None)
        if file is None:
            return None
        names = self._names[file]
        stood = names[0] == entry
        names.remove(entry)
        if not names:
            del self._names[file]
            return None
        self.shrunk.add(file)
        return names[0] if stood else None

    def leader(self, entry: int) -> int:
        """Return the name that stands for the file of this one."""
        file = self._file.get(entry)
        return entry if file is None else self._names[file][0]

    def of_same_file(self, entry: int) -> Sequence[int]:
        """Return all names of an entry's file."""
        file = self._file.get(entry)
        return (entry,) if file is None else self._names[file]

    def of_file(self, file: File) -> Sequence[int]:
        """Return the names of a file."""
        return self._names.get(file, ())

    def groups(self) -> Iterable[Sequence[int]]:
        """Return the names of each file."""
        return self._names.values()
