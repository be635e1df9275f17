"""Several migrations at once, each a program of its own.

Lives here: starting them, hearing what they say, passing signals on. Must not live here:
which there are (`drain`). `live` only.

A migration takes over signals, freezes control groups and must survive whatever becomes
of others, so each is a process, started by exec of this same program, and in a session
of its own: Ctrl-C reaches it through here alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from migrate.events import Departed, Relayed, Result, emit, install

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHUNK_BYTES = 1 << 16
_STATUSES: dict[int, Result] = {4: "undecided", 5: "lost"}


class Child:
    """One migration, under way.

    Args:
        destination: as the user named it.
        command: from options before the command's name on.
        arguments: from the command's name on.
        log: path its error goes to.
    """

    def __init__(
        self,
        container: str,
        destination: str,
        command: Sequence[str],
        arguments: Sequence[str],
        log: str,
    ) -> None:
        self.container = container
        self.destination = destination
        self._log = log
        self._unread = b""
        self._report: dict[str, Any] = {}
        self._was_refused = False
        self._was_signalled = False
        with open(f"{log}.stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                [*command, "--log", log, "--log-format", "json", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self.pidfd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._stdout, False)

    @property
    def _stdout(self) -> int:
        if self._process.stdout is None:
            raise AssertionError("was started without a pipe")
        return self._process.stdout.fileno()

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        self._was_signalled = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have the selector wait for its words and its end."""
        selector.register(self._stdout, selectors.EVENT_READ, self)
        selector.register(self.pidfd, selectors.EVENT_READ, self)

    def forget(self, selector: selectors.BaseSelector) -> None:
        """Undo `watch`."""
        selector.unregister(self.pidfd)
        with contextlib.suppress(KeyError):
            selector.unregister(self._stdout)

    def hear(self) -> bool:
        """Emit what it has said; returns whether it may say more."""
        while True:
            try:
                data = os.read(self._stdout, _CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            happened = json.loads(line)
            if not isinstance(happened, dict):
                return
            if happened.get("event") == "Report":
                self._report = happened["report"]
            self._was_refused |= happened.get("verdict") == "refuse"
            emit(Relayed(container=self.container, happened=happened))

    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self._process.poll() is not None

    def end(self) -> Departed:
        """Return how it ended; nothing of it is left open."""
        self.hear()
        status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        os.close(self.pidfd)
        reason, hint = ("", "") if self._has_moved(status) else self._why(status)
        return Departed(
            container=self.container,
            destination=self.destination,
            result=self._result(status),
            reason=reason,
            hint=hint,
            downtime_seconds=self._report.get("downtime_seconds"),
            total_seconds=self._report.get("total_seconds"),
        )

    def _has_moved(self, status: int) -> bool:
        # The report is the last thing it says; a signal may have ended it after that.
        return status == 0 or bool(self._report)

    def _result(self, status: int) -> Result:
        if self._has_moved(status):
            return "moved"
        if status in _STATUSES:
            return _STATUSES[status]
        if self._was_refused:
            return "refused"
        return "interrupted" if self._was_signalled else "failed"

    def _why(self, status: int) -> tuple[str, str]:
        """Return its last words: message and hint."""
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            with open(self._log, encoding="utf-8", errors="replace") as file:
                said = json.loads(file.read().splitlines()[-1])
            return str(said["msg"]), str(said.get("hint", ""))
        if self._was_signalled:
            return "interrupted before it began; it runs on here", ""
        with open(f"{self._log}.stderr", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
        words = f": {lines[-1]}" if lines else ""
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        return f"its migration ended by {how}{words}", f"Run `migrate recover {self.container}`."


class Crew:
    """The children under way; in the main thread, it takes over the three signals.

    Attributes:
        is_stopping: one has arrived: nothing more may begin.
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self._children: list[Child] = []
        self._begun = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="migrate-drain-")
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._wakeup_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._children:
            # Whatever went wrong here, perhaps in showing it: end them, and say no more.
            install(lambda _: None)
            for each in self._children:
                each.signal(signal.SIGINT)
        while self._children:
            self.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._selector.close()
        self._wake.close()
        self._woken.close()
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._children)

    def _arrive(self, number: int, _frame: FrameType | None) -> None:
        """Begin nothing more, and let each that is under way end at its next safe point."""
        self.is_stopping = True
        for each in self._children:
            each.signal(number)

    def note(self, data: object) -> str:
        """Write data for one migration to read, and return the file's path."""
        path = f"{self._folder.name}/{self._begun}.json"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(data, file)
        return path

    def begin(
        self, container: str, destination: str, command: Sequence[str], arguments: Sequence[str]
    ) -> None:
        """Start a migration.

        Raises:
            OSError: the program cannot be started.
        """
        self._begun += 1
        log = f"{self._folder.name}/{self._begun}"
        child = Child(container, destination, command, arguments, log)
        child.watch(self._selector)
        self._children.append(child)
        if self.is_stopping:  # the signal came while it was being started
            child.signal(signal.SIGINT)

    def wait(self) -> list[Departed]:
        """Wait until something happens; return those that have ended."""
        ended = []
        for key, _ in self._selector.select():
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(_CHUNK_BYTES)
                continue
            child: Child = key.data
            if child not in self._children:
                continue  # it ended with the event before
            if not child.hear() and key.fd != child.pidfd:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(key.fd)
            if child.is_over():
                child.forget(self._selector)
                self._children.remove(child)
                ended.append(child.end())
        return ended
