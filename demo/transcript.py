"""How the demo tells its story: commands with their output, facts, colours on a terminal."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, TextIO

from tests.support.processes import CommandError

if TYPE_CHECKING:
    from tests.support.hosts import Host

LONGEST_SECONDS = 50
BOLD, DIM, GREEN, RED, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m"


class Transcript:
    """Writes to one stream; what is written is what was run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colourful = stream.isatty() and "NO_COLOR" not in os.environ

    def _write(self, text: str, colour: str = "") -> None:
        if colour and self._colourful:
            text = f"{colour}{text}{PLAIN}"
        self._stream.write(text + "\n")
        self._stream.flush()

    def title(self, text: str) -> None:
        """Begin a part of the story."""
        self._write(f"\n{text}", BOLD)

    def note(self, text: str) -> None:
        """Explain something, indented."""
        for line in text.splitlines():
            self._write(f"  {line}", DIM)

    def line(self, host: Host, text: str) -> None:
        """Say what happened on a host."""
        self._write(f"{host.name:>8}   {text}")

    def fact(self, name: str, text: str) -> None:
        """Say one thing that was found."""
        self._write(f"{name:>14}  {text}")

    def failure(self, text: str) -> None:
        """Say what went wrong."""
        self._write(text, RED)

    def creation(self, host: Host, command: str) -> None:
        """Run a command that makes a container, whose output is not to be ours.

        Raises:
            CommandError: it failed.
        """
        self._write(f"{host.name:>8} $ {command}", GREEN)
        host.run_detached(command.split())

    def command(self, host: Host, command: str, *, cwd: str = "/") -> None:
        """Run a command in a host's shell, showing it and what it writes as it writes it.

        Raises:
            CommandError: it failed, or did not end in time and was killed.
        """
        self._write(f"{host.name:>8} $ {command}", GREEN)
        near, far = os.pipe()
        with open(near, encoding="utf-8", errors="replace") as output:
            try:
                process = host.popen(["sh", "-c", command], stdout=far, stderr=far, cwd=cwd)
            finally:
                os.close(far)
            with process:
                watchdog = threading.Timer(
                    LONGEST_SECONDS, os.killpg, [process.pid, signal.SIGKILL]
                )
                watchdog.start()
                try:
                    for line in output:
                        self._write(f"           {line.rstrip()}")
                    status = process.wait()
                finally:
                    watchdog.cancel()
        if status:
            message = f"`{command}` on {host.name} failed with exit status {status}"
            raise CommandError(message)
