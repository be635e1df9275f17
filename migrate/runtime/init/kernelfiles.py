"""Parameters of the kernel that belong to the container's namespaces.

Lives here: sysctl, host and domain name. They are written through a procfs that
no path of the container leads to, so that nothing can stand in for it
(CVE-2025-52881).
"""

from __future__ import annotations

import os

from migrate import syscalls
from migrate.errors import KernelError, StageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from migrate.runtime.init.context import Context


def sysctl(context: Context, key: str, value: str) -> None:
    """Write one parameter.

    As sysctl(8) has it: the first of dot and slash in the key is what separates, and the
    other one stands for the letter, such as the dot of a VLAN's name.
    """
    dot, slash = key.find("."), key.find("/")
    is_dotted = slash < 0 or 0 <= dot < slash
    path = key.translate({ord("."): "/", ord("/"): "."}) if is_dotted else key
    try:
        fd = syscalls.openat2(
            context.root.proc,
            f"sys/{path}",
            os.O_WRONLY,
            resolve=syscalls.RESOLVE_BENEATH
            | syscalls.RESOLVE_NO_SYMLINKS
            | syscalls.RESOLVE_NO_XDEV,
        )
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except KernelError as error:
        raise StageError(
            f"cannot set the sysctl {key}: {os.strerror(error.errno).lower()}"
        ) from None
    except OSError as error:
        raise StageError(
            f"cannot set the sysctl {key} to {value}: {str(error.strerror).lower()}"
        ) from None


def hostname(_context: Context, name: str) -> None:
    """Set the host name."""
    syscalls.sethostname(name)


def domainname(_context: Context, name: str) -> None:
    """Set the NIS domain name."""
    syscalls.setdomainname(name)


OPERATIONS = {"domainname": domainname, "hostname": hostname, "sysctl": sysctl}
