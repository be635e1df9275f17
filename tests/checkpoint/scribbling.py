"""Processes whose memory changes, and what is in it by the kernel's own files.

Lives here: scribbler.c as an object, and the truth about a process's memory, which uses
nothing of what it is to judge.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
from array import array
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.checkpoint.conftest import eventually

PAGE = 4096
LARGE_PAGE = 2 << 20
ZEROS = bytes(PAGE)
_NAMES = ("[heap]", "[stack]", "[anon")
_IS_THERE = 3 << 62
_FRAME = (1 << 55) - 1

NOTHING, READ, WRITE = 0, 1, 3
MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 8, 14, 15
MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 102, 103  # Linux 6.13
MAP_DROPPABLE = 0x08


class Scribbler:
    """One process of scribbler.c; `pid` is the first one's."""

    def __init__(self, program: Path) -> None:
        pipe = subprocess.PIPE
        # A session of its own: whatever it has forked ends with it.
        self.process = subprocess.Popen(
            [program], stdin=pipe, stdout=pipe, start_new_session=True, bufsize=0
        )
        self.pid = self.process.pid

    def do(self, *words: object) -> int:
        """Have it do something; return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        answer = self.process.stdout.readline().decode().strip()
        assert answer.isdecimal(), f"{words}: {answer}"
        return int(answer)

    def map(self, pages: int, *, at: int = 0, prot: int = WRITE, flags: int = 0) -> int:
        """Return the address of a new mapping."""
        return self.do("map", at, pages, prot, flags)

    def close(self) -> None:
        """End it and all it has forked."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def stop(*pids: int) -> None:
    """Stop processes, for all of their threads."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        eventually(partial(_is_stopped, pid), f"{pid} stops")


def go_on(*pids: int) -> None:
    """Continue processes."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Tell whether every thread of a process is stopped."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{name}/stat").read_text()
        found.add(text.rpartition(") ")[2][0])
    return found <= set("TZ")


def memory_of(pid: int) -> dict[int, bytes]:
    """Return every page of private anonymous memory that a process has for itself.

    Pages that are zeros because nobody has written them are not its own: no dump has
    them.
    """
    zero_frames = _zero_frames()
    found: dict[int, bytes] = {}
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split(None, 5)
            name = words[5] if len(words) > 5 else ""
            if words[1][3] != "p" or words[4] != "0" or (name and not name.startswith(_NAMES)):
                continue
            start, end = (int(word, 16) for word in words[0].split("-"))
            entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            for index, entry in enumerate(array("Q", entries)):
                if entry & _IS_THERE and entry & _FRAME not in zero_frames:
                    at = start + index * PAGE
                    found[at] = os.pread(memory.fileno(), PAGE, at)
    return found


def _zero_frames() -> set[int]:
    """Return the frames that stand for zeros: the kernel's small page, and its large one."""
    found: set[int] = set()
    area = mmap.mmap(-1, 2 * LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    first = ctypes.c_char.from_buffer(area)
    address = ctypes.addressof(first)
    for advice in (MADV_NOHUGEPAGE, MADV_HUGEPAGE):
        area.madvise(MADV_DONTNEED)
        area.madvise(advice)
        assert not any(area[at] for at in range(0, len(area), PAGE))
        with open("/proc/self/pagemap", "rb") as file:
            content = os.pread(file.fileno(), len(area) // PAGE * 8, address // PAGE * 8)
        found |= {entry & _FRAME for entry in array("Q", content)}
    del first
    area.close()
    return found
