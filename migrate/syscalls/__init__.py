"""Every call into libc and the kernel that the standard library lacks.

Lives here: one function a system call, named as its man page, the constants
it takes, and the single place that turns an error number into a KernelError.
Must not live here: policy, paths, retries. Every room may import it; it
imports `migrate.errors` and the C half of ctypes only.

Everything is loaded at once: init may import nothing any more when it needs it.
"""

from migrate.syscalls.constants import *  # noqa: F403 - the package is one room with one door
from migrate.syscalls.files import *  # noqa: F403 - the same
from migrate.syscalls.mounts import *  # noqa: F403 - the same
from migrate.syscalls.processes import *  # noqa: F403 - the same
