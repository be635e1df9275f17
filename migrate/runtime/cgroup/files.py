"""Reading and writing the files of a control group.

Lives here: the one way each is done, and how its failure is worded. Imported by the
modules of this package only.
"""

from __future__ import annotations

import os

from migrate.errors import CgroupError

# A counter file is short; memory.stat of a large machine is a few kilobytes.
_LONGEST_FILE_BYTES = 1 << 20


def read(path: str, directory: int | None = None) -> str:
    """Return a file's content without the line end.

    Args:
        path: absolute, or from the directory.
        directory: a descriptor.

    Raises:
        OSError: as open(2) and read(2) say; the caller knows what it means.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(fd, _LONGEST_FILE_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="replace").rstrip("\n")


def read_if_there(path: str, directory: int | None = None) -> str | None:
    """Return a file's content as `read` does, or None where the kernel does not offer it."""
    try:
        return read(path, directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        # ENODEV from a cgroup that is being removed, EOPNOTSUPP from a counter that
        # this kernel has but does not count: for a reader the same as absent.
        return None


def write_raw(path: str, value: str) -> None:
    """Write a value in one write(2), as control files want it.

    Raises:
        OSError: as open(2) and write(2) say.
    """
    # Never O_CREAT: in a plain directory a missing controller would become a file.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def write(path: str, value: str, hint: str = "") -> None:
    """Write a value.

    Raises:
        CgroupError: names the file, the value and the kernel's reason.
    """
    try:
        write_raw(path, value)
    except FileNotFoundError:
        directory, name = os.path.split(path)
        if os.path.isdir(directory):
            controller = name.partition(".")[0]
            raise CgroupError(
                f"cannot set {name} to {value}: the {controller} controller does not "
                f"offer it in {directory}",
                hint or "Leave the setting out, or enable the controller on this host.",
            ) from None
        raise CgroupError(f"control group {directory} does not exist", hint) from None
    except OSError as error:
        raise CgroupError(
            f"cannot write {value} to {path}: {str(error.strerror).lower()}", hint
        ) from None


def keyed(text: str) -> dict[str, int]:
    """Return the numbers of a flat keyed file such as memory.stat."""
    numbers = {}
    for line in text.split("\n"):
        name, _, value = line.partition(" ")
        if value.isdigit():
            numbers[name] = int(value)
    return numbers
