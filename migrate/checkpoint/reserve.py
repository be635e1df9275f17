"""Memory taken from the kernel before it is needed.

Lives here: Reserve, which fills the destination's memory images with zeros while the
container still runs at the source. Must not live here: the stream that later fills them
(`page_store`), how they become the memory of processes (`apart`). May be imported by
`checkpoint` and `live`.

Writing to memory the kernel has to find first costs several times as much as writing to
memory that is there, and in a virtual machine, whose host may have to find it in turn,
ten times. The container stands still for as long as that takes. So it is done before. It
is best effort: what is not there when the stream begins is found then.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping

from migrate.checkpoint.facts import Facts

_STEP_BYTES = 4 << 20
# Processes smaller than this are not worth a file of their own.
SMALLEST_BYTES = 16 << 20
# What the host must keep beside all that is taken here.
_SPARE_BYTES = 256 << 20
_PREFIX = ".reserved-"


class Reserve:
    """Takes memory in a thread of its own, until told to stop.

    Args:
        directory: descriptor of the image directory; stays the caller's.
        sizes: expected memory of each process, by its number inside the container.
        available_bytes: what the host has left; what does not fit is not reserved.
    """

    def __init__(
        self, directory: int, sizes: Mapping[int, int], available_bytes: int | None = None
    ) -> None:
        self._directory = directory
        left = _available_bytes() if available_bytes is None else available_bytes
        left -= _SPARE_BYTES
        self._sizes: dict[int, int] = {}
        for process, size in sizes.items():
            if size >= SMALLEST_BYTES and size <= left:
                self._sizes[process] = size
                left -= size
        self._files: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reserve", daemon=True)
        self._filled = threading.Event()

    @staticmethod
    def of(directory: int, facts: Facts) -> Reserve:
        """Return what a container needs, from what is known of it before its freeze."""
        return Reserve(directory, {each.inner_pid: each.memory_bytes for each in facts.processes})

    def start(self) -> None:
        """Begin to take memory."""
        self._thread.start()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until everything is taken; tell whether it is."""
        return self._filled.wait(timeout_seconds)

    def take(self, process: int, name: str) -> int | None:
        """Turn a process's reserved file into an image, ready to be written.

        The caller cuts it to its length, and closes it.

        Returns:
            Its descriptor, or None where nothing is reserved.
        """
        self._stop_filling()
        if process not in self._files:
            return None
        source = f"{_PREFIX}{process}"
        # link(2), unlike rename(2), refuses a name that is taken.
        os.link(source, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.unlink(source, dir_fd=self._directory)
        return self._files.pop(process)

    def close(self) -> None:
        """Give everything back that was not taken; may be called again."""
        self._stop_filling()
        for process, descriptor in self._files.items():
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{_PREFIX}{process}", dir_fd=self._directory)
        self._files = {}

    def _stop_filling(self) -> None:
        """Stop taking memory: the stream has begun, and needs the processor."""
        self._stop.set()
        if self._thread.ident is not None:
            self._filled.wait()

    def _run(self) -> None:
        """Take memory."""
        try:
            for process, size in self._sizes.items():
                self._fill_file(process, size)
        except OSError:
            pass  # no room: found out by the stream, which says so
        finally:
            self._filled.set()

    def _fill_file(self, process: int, size: int) -> None:
        """Write zeros to a process's file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{_PREFIX}{process}", flags, 0o600, dir_fd=self._directory)
        self._files[process] = descriptor
        zeros = memoryview(bytes(_STEP_BYTES))
        written = 0
        while written < size and not self._stop.is_set():
            written += os.pwrite(descriptor, zeros[: size - written], written)


def _available_bytes() -> int:
    """Return how much memory can be had without swapping, see proc_meminfo(5)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0
