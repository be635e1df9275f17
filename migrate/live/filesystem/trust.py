"""How far the times of a file system can be trusted.

Lives here: what is known of its clock, and of who else writes to it. Must not live
here: the walk. `migrate.live.filesystem` only.
"""

from __future__ import annotations

import os

from migrate import syscalls

# How far a ctime may lag behind the clock: two ticks of the slowest kernel where
# the file system keeps nanoseconds, two seconds where it keeps seconds (FAT, ext3),
# anything where another machine's clock writes it.
_FINE_NS = 50_000_000
_COARSE_NS = 2_000_000_000
_FOREIGN_NS = 3_600_000_000_000
_FOREIGN_FILE_SYSTEMS = frozenset(
    {
        0x6969,  # NFS
        0xFF534D42,  # CIFS
        0xFE534D42,  # SMB2
        0x65735546,  # FUSE
        0x01021997,  # 9p
        0x00C36400,  # Ceph
    }
)


def is_foreign(root_fd: int) -> bool:
    """Whether another machine, or a program, may write to the file system as well."""
    return syscalls.fstatfs(root_fd) & 0xFFFFFFFF in _FOREIGN_FILE_SYSTEMS


def lag_ns(root_fd: int) -> int:
    """How long before a look a file must have changed last for the look to be the truth."""
    if is_foreign(root_fd):
        return _FOREIGN_NS
    return _FINE_NS if os.fstat(root_fd).st_ctime_ns % 1_000_000 else _COARSE_NS
