"""The words of `mounts[].options`, and what the kernel is told for each.

Lives here: one table, and the function that reads a list of words with it. Source:
runtime-spec config.md "Linux mount options", mount(8), mount_setattr(2). A word
that is not in the table belongs to the file system and is handed to it.
Must not live here: mounting. Imported by `validate` and `plan`.
"""

from __future__ import annotations

from migrate.errors import ConfigError
from migrate.syscalls import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

# word -> (attribute, set?): of the mount itself; with "r" before, of the tree below too.
ATTRIBUTES: dict[str, tuple[int, bool]] = {
    "ro": (MOUNT_ATTR_RDONLY, True),
    "rw": (MOUNT_ATTR_RDONLY, False),
    "nosuid": (MOUNT_ATTR_NOSUID, True),
    "suid": (MOUNT_ATTR_NOSUID, False),
    "nodev": (MOUNT_ATTR_NODEV, True),
    "dev": (MOUNT_ATTR_NODEV, False),
    "noexec": (MOUNT_ATTR_NOEXEC, True),
    "exec": (MOUNT_ATTR_NOEXEC, False),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, True),
    "diratime": (MOUNT_ATTR_NODIRATIME, False),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, True),
    "symfollow": (MOUNT_ATTR_NOSYMFOLLOW, False),
}

# The access time policy is a field of three bits, not a flag: one word replaces another.
ATIME: dict[str, int] = {
    "relatime": MOUNT_ATTR_RELATIME,
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
    "norelatime": MOUNT_ATTR_STRICTATIME,
    "atime": MOUNT_ATTR_RELATIME,
    "nostrictatime": MOUNT_ATTR_RELATIME,
}

PROPAGATION: dict[str, int] = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}

# Flags of the file system as a whole, and their opposites: fsconfig(2) knows them by
# these names.
SUPERBLOCK = frozenset(
    {"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"},
)

# Nothing to be said to the kernel: its default; what goes to its log, which fsconfig(2)
# has no word for; and a counter that it keeps wherever the file system has one.
NOTHING = frozenset({"defaults", "silent", "loud", "iversion", "noiversion"})

# What is done by the runtime and is no flag of the kernel's.
OWN = frozenset({"bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"})


class MountOptions:
    """What a list of options asks for.

    Attributes:
        bind: "", "bind" or "rbind".
        attr_set: MOUNT_ATTR_* bits of the mount to set.
        attr_clr: bits of the mount to clear.
        rec_attr_set: bits to set in the whole tree.
        rec_attr_clr: bits to clear in the whole tree.
        propagation: MS_* and whether for the whole tree, in the order given.
        idmap: "", "idmap" or, for the whole tree, "ridmap".
        copies_up: a tmpfs begins with what is in the directory it covers.
        remounts: what is mounted there gets other options.
        data: the file system's own options, a value of None for a bare word.
    """

    __slots__ = (
        "attr_clr",
        "attr_set",
        "bind",
        "copies_up",
        "data",
        "idmap",
        "propagation",
        "rec_attr_clr",
        "rec_attr_set",
        "remounts",
    )

    def __init__(self) -> None:
        self.bind = ""
        self.attr_set = 0
        self.attr_clr = 0
        self.rec_attr_set = 0
        self.rec_attr_clr = 0
        self.propagation: list[tuple[int, bool]] = []
        self.idmap = ""
        self.copies_up = False
        self.remounts = False
        self.data: list[tuple[str, str | None]] = []

    def _take(self, bits: int, mask: int, *, recursive: bool) -> None:
        """Let the last word about a bit win over those before."""
        if recursive:
            self.rec_attr_set = self.rec_attr_set & ~mask | bits
            self.rec_attr_clr |= mask
            self.rec_attr_clr &= ~bits | MOUNT_ATTR__ATIME
        else:
            self.attr_set = self.attr_set & ~mask | bits
            self.attr_clr |= mask
            self.attr_clr &= ~bits | MOUNT_ATTR__ATIME

    def take_word(self, word: str) -> bool:
        """Read one word of the tables, plain or recursive; False if it is in none."""
        if word in OWN:
            self._take_own(word)
            return True
        return self._attribute(word, recursive=False) or (
            word[:1] == "r" and self._attribute(word[1:], recursive=True)
        )

    def _take_own(self, word: str) -> None:
        if word in ("bind", "rbind"):
            self.bind = word
        elif word in ("idmap", "ridmap"):
            self.idmap = word
        elif word == "tmpcopyup":
            self.copies_up = True
        else:
            self.remounts = True

    def _attribute(self, word: str, *, recursive: bool) -> bool:
        if word in ATTRIBUTES:
            bit, is_set = ATTRIBUTES[word]
            self._take(bit if is_set else 0, bit, recursive=recursive)
        elif word in ATIME:
            # The kernel wants the whole field cleared along with a new value.
            self._take(ATIME[word], MOUNT_ATTR__ATIME, recursive=recursive)
        elif word in PROPAGATION:
            self.propagation.append((PROPAGATION[word], recursive))
        else:
            return False
        return True


def parse(options: list[str], path: str) -> MountOptions:
    """Return what the options of a mount ask for.

    Args:
        options: the words, the later one winning where two contradict.
        path: JSON path of the list.

    Raises:
        ConfigError: a word of the runtime's own has a value.
    """
    result = MountOptions()
    for at, word in enumerate(options):
        if word in NOTHING or result.take_word(word):
            pass
        elif word.partition("=")[0] in OWN:
            raise ConfigError(
                f"{path}[{at}]",
                f"{word}: takes no value",
                "Write the mappings as uidMappings and gidMappings of the mount.",
            )
        elif "=" in word:
            key, _, value = word.partition("=")
            result.data.append((key, value))
        elif word:
            result.data.append((word, None))
    return result
