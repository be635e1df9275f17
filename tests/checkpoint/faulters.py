"""Processes that miss memory, for the tests of what fills it.

Lives here: faulter.c as an object, and the store with what its memory should be.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from migrate.checkpoint.keeping import Kept

PAGE = 4096


def page_of(number: int) -> bytes:
    """Return what a page should hold."""
    return b"" if number % 16 == 15 else struct.pack("=Q", number + 1) * (PAGE // 8)


class Faulter:
    """One process that waits for its memory.

    Args:
        program: of faulter.c.
        socket: where it sends its userfaultfd.
        number: under which it sends it.
    """

    def __init__(self, program: Path, socket: str, *, number: int, pages: int) -> None:
        self.number = number
        self.pages = pages
        self.process = subprocess.Popen(
            [program, socket, str(number), str(pages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.address = int(self.ask("where"))
        self.store = os.memfd_create(f"store-{number}")
        os.truncate(self.store, 1 << 47)
        for page in range(pages):
            if content := page_of(page):
                os.pwrite(self.store, content, self.address + page * PAGE)

    def kept(self, userfaultfd: int) -> Kept:
        """Return what a keeper is to be told of it."""
        half = self.pages // 2 * PAGE
        spans = [
            (self.address, half),
            (self.address + half, self.pages * PAGE - half),
        ]
        return Kept(pid=self.number, userfaultfd=userfaultfd, store=self.store, spans=spans)

    def tell(self, *words: object) -> None:
        """Give it something to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Return its answer, when it is done."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def ask(self, *words: object) -> str:
        """Let it do something and return its answer."""
        self.tell(*words)
        return self.hear()

    @property
    def waits(self) -> bool:
        """Whether it waits for a page."""
        return Path(f"/proc/{self.process.pid}/wchan").read_text() == "handle_userfault"

    @property
    def store_bytes(self) -> int:
        """How much memory its store takes."""
        return os.fstat(self.store).st_blocks * 512

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
        os.close(self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
