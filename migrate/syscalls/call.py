"""How a C function is called, and how its failure is raised.

Lives here: the little of ctypes that is needed, and the one raise site. Imported by
the modules of this package only.

`_ctypes` is used without its Python half: that saves three milliseconds in
every process of this program (no `struct`, no `ctypes._endian`), and nothing here
needs more than calls with integers, byte strings and buffers.
"""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    dlopen,
    dlsym,
    get_errno,
)

from migrate.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Long(_SimpleCData):  # type: ignore[type-arg]
    """A C long: what an integer argument is."""

    _type_ = "l"


class Int(_SimpleCData):  # type: ignore[type-arg]
    """A C int."""

    _type_ = "i"


class Char(_SimpleCData):  # type: ignore[type-arg]
    """A C char; arrays of it are buffers."""

    _type_ = "c"


class LongFunction(CFuncPtr):
    """A C function that returns a long."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = Long


class IntFunction(CFuncPtr):
    """A C function that returns an int."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = Int


# Everything is looked up at import, here and in the modules beside: after pivot_root a
# lookup would be in a file of the container.
_handle = dlopen(None, 0)  # type: ignore[arg-type]


def function(name: str) -> IntFunction:
    """A function of libc that returns an int."""
    return IntFunction(dlsym(_handle, name))


# For the calls that libc has no function for: their number comes first.
syscall = LongFunction(dlsym(_handle, "syscall"))


def to_c(value: Any) -> Any:
    """One argument as C takes it: integers are longs, paths byte strings."""
    if isinstance(value, int):
        return Long(value)
    if isinstance(value, str):
        return os.fsencode(value)
    if isinstance(value, bytearray):
        return (Char * len(value)).from_buffer(value)
    return value


def fail(name: str, subject: object) -> NoReturn:
    """Raise for the error number the last call left."""
    if isinstance(subject, bytes):
        subject = os.fsdecode(subject)
    raise KernelError(name, str(subject), get_errno())


def call(function: Any, name: str, subject: object, *args: object) -> int:
    """Call, and raise the one way this module raises."""
    while True:
        result: int = function(*map(to_c, args))
        if result >= 0:
            return result
        if get_errno() != 4:  # EINTR
            fail(name, subject)
