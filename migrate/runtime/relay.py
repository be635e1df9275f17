"""Standing between a process and whoever started it in the foreground.

Lives here: waiting for a container's or an exec's process, passing signals on, carrying
its terminal over to ours, and its exit status. Must not live here: starting it. May be
imported by every room above `runtime`.

    our stdin  --raw-->  master  ==  slave: stdin, stdout, stderr of the process
    our stdout <-------  master
    SIGWINCH             the master takes our window's size
    SIGCHLD              children are reaped; the process's own end is the end
    other signals        go to the process
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios

from migrate.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from types import FrameType, TracebackType
    from typing import Any, Self
else:
    import _signal  # `signal` makes an enumeration of it, which takes 4 ms

PASSED_ON = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
    _signal.SIGTERM,
    _signal.SIGCONT,
)
ENDINGS = {_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM}
WATCHED = (*PASSED_ON, _signal.SIGCHLD, _signal.SIGWINCH)
PART_BYTES = 1 << 16
# What is typed ahead of a process that does not read; then our stdin waits.
MOST_WAITING_BYTES = 1 << 20
# A pipe that nobody reads; a terminal that was hung up, or is another session's.
GONE = (errno.EPIPE, errno.EIO)
# struct winsize: four unsigned shorts, see ioctl_tty(2).
WINDOW_SIZE_BYTES = 8


class Relay:
    """The foreground of one process, as a context manager.

    Enter it before the process is started, so that no signal is lost; signals that come
    before `wait` are passed on then. Leaving it restores our terminal and our signals.

    Args:
        terminal: the process gets a terminal of its own; ours becomes raw.

    Raises:
        UsageError: `terminal`, but our standard input is none.
    """

    def __init__(self, *, terminal: bool) -> None:
        if terminal and not os.isatty(0):
            raise UsageError(
                "cannot allocate tty: standard input is not a terminal",
                "Run it on a terminal, set process.terminal to false (`exec`: leave out --tty), "
                "or detach with --console-socket.",
            )
        self._terminal = terminal
        self._master = -1
        self._before: dict[int, Any] = {}
        self._settings: list[Any] | None = None
        self._wake_read = self._wake_write = -1
        self._stdin_open = terminal
        self._is_heard = True
        self._to_process = b""

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in WATCHED:
            self._before[number] = _signal.signal(number, _noted)
        _signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give terminal and signals back as they were."""
        if self._settings is not None:
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, self._settings)
            except termios.error:
                pass  # it has been hung up: nothing is left to be given back
        _signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            _signal.signal(number, handler)
        for fd in (self._wake_read, self._wake_write, self._master):
            if fd >= 0:
                os.close(fd)

    def take_console(self, master: int) -> None:
        """Take the master of the process's terminal, and make ours raw."""
        self._master = master
        os.set_blocking(master, False)
        self._resize()
        self._settings = termios.tcgetattr(0)
        termios.tcsetattr(0, termios.TCSADRAIN, _raw(self._settings))

    def wait(self, pid: int) -> int:
        """Carry on until the process, a child of ours, has ended.

        Returns:
            Its exit status; 128 and the signal's number if one killed it.
        """
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        while True:
            # The end may have come before the first signal could be noted.
            status = _reaped(pid)
            if status is not None:
                self._drain()
                return status
            self._watch(poll)
            for fd, _ in poll.poll():
                if fd == self._wake_read:
                    self._pass_on(pid)
                elif fd == self._master:
                    self._from_process()
                elif fd == 0:
                    self._read_stdin()
            self._write_master()

    def show(self, part: bytes) -> None:
        """Show what was written before."""
        self._show(part)

    def carry(self, keys: bytes) -> bool:
        """Carry on until the other end of the terminal is gone, or somebody lets it be.

        Args:
            keys: two, that say so when they are typed; a signal says the same.

        Returns:
            Whether somebody did.
        """
        held, is_let_be = b"", False
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        while self._master >= 0:
            self._watch(poll)
            for fd, _ in poll.poll():
                if fd == self._wake_read:
                    numbers = set(os.read(self._wake_read, PART_BYTES))
                    if _signal.SIGWINCH in numbers:
                        self._resize()
                    if numbers & ENDINGS:
                        return True
                elif fd == self._master:
                    self._from_process()
                elif fd == 0:
                    waiting = len(self._to_process)
                    self._read_stdin()
                    typed, asks, _ = (held + self._to_process[waiting:]).partition(keys)
                    # The first of the two may be one of them, or meant for the process.
                    held = keys[:1] if typed.endswith(keys[:1]) and not asks else b""
                    self._to_process = self._to_process[:waiting] + typed.removesuffix(held)
                    is_let_be = bool(asks) or not self._stdin_open
            self._write_master()
            if is_let_be:
                return True
        return False

    def _watch(self, poll: select.poll) -> None:
        """Wait for what can be used: no reading ahead of a process that does not read."""
        if self._master < 0:
            return
        poll.register(self._master, select.POLLIN | (select.POLLOUT if self._to_process else 0))
        if self._stdin_open and len(self._to_process) < MOST_WAITING_BYTES:
            poll.register(0, select.POLLIN)
        else:
            _forget(poll, 0)

    def _pass_on(self, pid: int) -> None:
        """Deal with the signals that came."""
        for number in os.read(self._wake_read, PART_BYTES):
            if number == _signal.SIGWINCH:
                self._resize()
            elif number in PASSED_ON:
                try:
                    os.kill(pid, number)  # our child, not reaped: the pid is its own
                except ProcessLookupError:
                    continue

    def _resize(self) -> None:
        """Give the process's terminal the size of ours."""
        if self._master >= 0:
            try:
                size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(WINDOW_SIZE_BYTES))
            except OSError:  # ours has been hung up
                return
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _from_process(self) -> bool:
        """Carry output over; tell whether there was any."""
        try:
            part = os.read(self._master, PART_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            part = b""
        if not part:  # nobody has the slave open any more
            os.close(self._master)
            self._master = -1
            return False
        self._show(part)
        return True

    def _show(self, part: bytes) -> None:
        """Write output; where nobody reads ours any more, the process runs on unheard."""
        try:
            while part and self._is_heard:
                part = part[_written(1, part) :]
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._is_heard = False

    def _read_stdin(self) -> None:
        """Take what was typed."""
        try:
            part = os.read(0, PART_BYTES)
        except BlockingIOError:  # another reader of our terminal was faster
            return
        except OSError as error:
            if error.errno not in GONE:
                raise
            part = b""
        if part:
            self._to_process += part
        else:
            self._stdin_open = False

    def _write_master(self) -> None:
        """Hand on what was typed, as far as it is taken."""
        if self._master < 0 or not self._to_process:
            return
        try:
            self._to_process = self._to_process[os.write(self._master, self._to_process) :]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._to_process = b""

    def _drain(self) -> None:
        """Carry over what the process wrote last."""
        while self._master >= 0 and self._from_process():
            pass


def _written(fd: int, part: bytes) -> int:
    """Write and return how much was taken, also where our caller made the file non-blocking."""
    while True:
        try:
            return os.write(fd, part)
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number is in the wake-up pipe already."""


def _reaped(pid: int) -> int | None:
    """Reap every child that has ended; return the process's status if it is one of them.

    Orphans of the container come to us where its pid namespace is ours.
    """
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1  # reaped by nobody we know of; its status is lost
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if ended == 0:
            return None


def _forget(poll: select.poll, fd: int) -> None:
    """Stop waiting for a descriptor, whether or not it was waited for."""
    try:
        poll.unregister(fd)
    except KeyError:
        return


def _raw(settings: list[Any]) -> list[Any]:
    """Return terminal settings that pass every byte through, see termios(3), cfmakeraw."""
    input_, output, control, local, in_speed, out_speed, characters = settings
    input_ &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    output &= ~termios.OPOST  # the slave has added the carriage returns already
    local &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    control = control & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    return [input_, output, control, local, in_speed, out_speed, characters]
